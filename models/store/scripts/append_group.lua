-- Append messages to a group's log. A seq that is not above the newest was appended by an earlier try and is left out.
-- A log that Redis has lost begins with what comes: what is older stands in SQL.
-- KEYS[1] cursor hash of the group: newest, seq of the log's last entry; KEYS[2] chat log list
-- ARGV[1] most log entries; then per message, in order: seq, body
-- Returns the newest seq
local newest = tonumber(redis.call('HGET', KEYS[1], 'newest') or '0')
for i = 2, #ARGV, 2 do
  local seq = tonumber(ARGV[i])
  if seq > newest then
    if seq > newest + 1 then
      redis.call('DEL', KEYS[2])
    end
    newest = seq
    redis.call('RPUSH', KEYS[2], ARGV[i + 1])
  end
end
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[1]), -1)
redis.call('HSET', KEYS[1], 'newest', newest)
return newest
