-- Forget a connection, and only this one (ORIG A4).
-- KEYS[1] online hash: device to its connections, oldest first, separated by a space
-- ARGV[1] device; ARGV[2] connection (process:number:protocol)
-- Returns the connection that is live now in its place, '' where it was not live or none is left
local kept, was_live = {}, false
for connection in string.gmatch(redis.call('HGET', KEYS[1], ARGV[1]) or '', '%S+') do
  was_live = connection == ARGV[2]
  if not was_live then
    kept[#kept + 1] = connection
  end
end
if #kept == 0 then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return ''
end
redis.call('HSET', KEYS[1], ARGV[1], table.concat(kept, ' '))
return was_live and kept[#kept] or ''
