-- Let a device count: what it lacks stays in the inbox from now on. A device that counts already keeps its position.
-- The first device of a user starts at the oldest entry, a later one at the newest.
-- KEYS[1] cursor hash: next, base, epoch, d:<device> acknowledged cursor, n:<device> when it was seen, v:<device>:<shard>,
--   f:<device>:<shard> newest shard_seq when it began
-- ARGV[1] device; ARGV[2] time in ms
-- Returns -1 where the inbox must be opened first, 1 where the device is new, else 0
local state = redis.call('HMGET', KEYS[1], 'epoch', 'next', 'base', 'd:' .. ARGV[1])
if not state[1] then
  return -1
end
redis.call('HSET', KEYS[1], 'n:' .. ARGV[1], ARGV[2])
if state[4] then
  return 0
end
local acknowledged = state[3]
local fields, seen = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #fields, 2 do
  local kind = string.sub(fields[i], 1, 2)
  if kind == 'd:' then
    acknowledged = state[2]
  elseif kind == 's:' then
    seen[string.sub(fields[i], 3)] = fields[i + 1]
  end
end
redis.call('HSET', KEYS[1], 'd:' .. ARGV[1], acknowledged)
if acknowledged == state[2] then
  -- It counts as having all there is, so a rebuild from SQL must not give it what came before, and the sender is not told
  -- that it has that.
  for shard, position in pairs(seen) do
    local place = ARGV[1] .. ':' .. shard
    redis.call('HSET', KEYS[1], 'v:' .. place, position, 'f:' .. place, position)
  end
end
return 1
