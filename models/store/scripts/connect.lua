-- Register a device's newest connection and tell where its reading starts.
-- A device seen for the first time starts at the oldest entry when it is the user's first, else at the newest.
-- KEYS[1] cursor hash; KEYS[2] online hash
-- ARGV[1] device; ARGV[2] connection (process:connection:protocol); ARGV[3] lease in ms
-- Returns {epoch or '' (rebuild the inbox, then call again), newest cursor, base, acknowledged, former connection or ''}
local state = redis.call('HMGET', KEYS[1], 'epoch', 'next', 'base', 'd:' .. ARGV[1])
if not state[1] then
  return {'', 0, 0, 0, ''}
end
local acknowledged = state[4]
if not acknowledged then
  acknowledged = state[3]
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(field, 1, 2) == 'd:' then
      acknowledged = state[2]
    end
  end
  redis.call('HSET', KEYS[1], 'd:' .. ARGV[1], acknowledged)
end
local former = redis.call('HGET', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {state[1], tonumber(state[2]), tonumber(state[3]), tonumber(acknowledged), former or ''}
