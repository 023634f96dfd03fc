-- Replace a recalled message in a group's log. Repeating it changes nothing more.
-- KEYS[1] cursor hash of the group: newest, seq of the log's last entry; KEYS[2] chat log list
-- ARGV[1] seq; ARGV[2] body
-- Returns 1 where the message was in the log, else 0
local back = tonumber(redis.call('HGET', KEYS[1], 'newest') or '0') - tonumber(ARGV[1])
if back < 0 or back >= redis.call('LLEN', KEYS[2]) then
  return 0
end
redis.call('LSET', KEYS[2], -1 - back, ARGV[2])
return 1
