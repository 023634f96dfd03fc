-- Record that a device has everything up to a cursor, and trim what no device lacks any more.
-- Keeps per device and shard the newest shard_seq acknowledged (v:<device>:<shard>), for the checkpoint in SQL and for
-- the sender's question what became of a message, and when that was (t:<device>:<shard>); n:<device>: when it was seen.
-- KEYS[1] cursor hash; KEYS[2] inbox list
-- ARGV[1] epoch the cursor belongs to; ARGV[2] device; ARGV[3] cursor; ARGV[4] time in ms
-- Returns 1 where the device's position rose, else 0
local fields = redis.call('HGETALL', KEYS[1])
local state, lowest = {}, nil
for i = 1, #fields, 2 do
  state[fields[i]] = fields[i + 1]
end
local mine = 'd:' .. ARGV[2]
if state['epoch'] ~= ARGV[1] or not state[mine] then
  return 0
end
local newest, base = tonumber(state['next']), tonumber(state['base'])
local former, cursor = tonumber(state[mine]), tonumber(ARGV[3])
if cursor > newest or cursor <= former then
  return 0
end
local seen = {}
local from = math.max(former, base)
-- Where the overflow has passed the cursor nothing is left to look at, and LRANGE would count from the end.
local entries = cursor > base and redis.call('LRANGE', KEYS[2], from - base, cursor - base - 1) or {}
for _, entry in ipairs(entries) do
  local shard, position = string.match(entry, '^(%d+):(%d+):')
  if shard then
    seen[shard] = position
  end
end
for shard, position in pairs(seen) do
  local place = ARGV[2] .. ':' .. shard
  redis.call('HSET', KEYS[1], 'v:' .. place, position, 't:' .. place, ARGV[4])
end
redis.call('HSET', KEYS[1], mine, cursor, 'n:' .. ARGV[2], ARGV[4])
state[mine] = cursor
for field, value in pairs(state) do
  if string.sub(field, 1, 2) == 'd:' then
    local acknowledged = tonumber(value)
    if not lowest or acknowledged < lowest then
      lowest = acknowledged
    end
  end
end
if lowest > base then
  redis.call('LTRIM', KEYS[2], lowest - base, -1)
  redis.call('HSET', KEYS[1], 'base', lowest)
end
return 1
