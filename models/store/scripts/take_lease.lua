-- Take or renew the lease of a shard.
-- KEYS[1] lease string
-- ARGV[1] token of the drain; ARGV[2] lease in ms
-- Returns 1 where the lease is ours now, else 0
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
