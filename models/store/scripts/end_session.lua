-- Forget sessions of a user, and change the generation, so that a request that read SQL just before cannot put one back.
-- KEYS[1] sessions hash: device to session id, '' to the generation; KEYS[2] online hash: device to its connections
-- ARGV[1] generation; ARGV[2] 'one' or 'others'; ARGV[3] the device, or with 'others' the device that stays ('' = none)
-- Returns {device, its connections separated by a space, …} of the sessions that are over
redis.call('HSET', KEYS[1], '', ARGV[1])
if ARGV[2] == 'one' then
  redis.call('HDEL', KEYS[1], ARGV[3])
  local connections = redis.call('HGET', KEYS[2], ARGV[3])
  return connections and {ARGV[3], connections} or {}
end
for _, device in ipairs(redis.call('HKEYS', KEYS[1])) do
  if device ~= '' and device ~= ARGV[3] then
    redis.call('HDEL', KEYS[1], device)
  end
end
local online, over = redis.call('HGETALL', KEYS[2]), {}
for i = 1, #online, 2 do
  if online[i] ~= ARGV[3] then
    over[#over + 1] = online[i]
    over[#over + 1] = online[i + 1]
  end
end
return over
