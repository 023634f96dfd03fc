-- Give a user an inbox under a new epoch: empty for a new user, the unacknowledged tail where Redis lost his data.
-- Does nothing where an epoch stands already: whoever came first has done it.
-- KEYS[1] cursor hash; KEYS[2] inbox list
-- ARGV[1] epoch; ARGV[2] count of positions; then shard, newest shard_seq, …; count of fields; then field, value, …
--   (d:<device> acknowledged cursor, v:<device>:<shard> newest shard_seq acknowledged); then the entries, oldest first
-- Returns 1 where the inbox was opened, 0 where it stood already
if redis.call('HEXISTS', KEYS[1], 'epoch') == 1 then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
local i = 3
for _ = 1, tonumber(ARGV[2]) do
  redis.call('HSET', KEYS[1], 's:' .. ARGV[i], ARGV[i + 1])
  i = i + 2
end
local fields = tonumber(ARGV[i])
i = i + 1
for _ = 1, fields do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  i = i + 2
end
local count = 0
for j = i, #ARGV do
  redis.call('RPUSH', KEYS[2], ARGV[j])
  count = count + 1
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'next', count, 'base', 0)
return 1
