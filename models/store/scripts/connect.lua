-- Make a connection the live one of its device, if its session is not over and the user has not too many connections,
-- and tell where its reading starts. Older protocol 1 connections of the device stay behind it; older protocol 2 ones
-- leave the list: the caller ends the one that was live, and those before it were ended when it came.
-- KEYS[1] cursor hash; KEYS[2] online hash: device to its connections, oldest first, separated by a space;
--   KEYS[3] sessions hash: device to session id
-- ARGV[1] device; ARGV[2] connection (process:number:protocol); ARGV[3] lease in ms; ARGV[4] most connections of the user;
--   ARGV[5] session id; ARGV[6] time in ms
-- Returns {'live', epoch, newest cursor, base, acknowledged, formerly live or ''}, or where nothing was registered
--   {'session', held or ''} (not the session that stands here: ask SQL), {'new'} (open the inbox, register the device) or
--   {'full'}
local held = redis.call('HGET', KEYS[3], ARGV[1])
if held ~= ARGV[5] then
  return {'session', held or ''}
end
local state = redis.call('HMGET', KEYS[1], 'epoch', 'next', 'base', 'd:' .. ARGV[1])
if not (state[1] and state[4]) then
  return {'new'}
end
local online = redis.call('HGETALL', KEYS[2])
local kept, former, count = {}, '', 0
for i = 1, #online, 2 do
  for connection in string.gmatch(online[i + 1], '%S+') do
    if online[i] ~= ARGV[1] then
      count = count + 1
    elseif connection ~= ARGV[2] then
      former = connection
      if string.sub(connection, -2) ~= ':2' then
        kept[#kept + 1] = connection
        count = count + 1
      end
    end
  end
end
if count >= tonumber(ARGV[4]) then
  return {'full'}
end
kept[#kept + 1] = ARGV[2]
redis.call('HSET', KEYS[2], ARGV[1], table.concat(kept, ' '))
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('HSET', KEYS[1], 'n:' .. ARGV[1], ARGV[6])
return {'live', state[1], tonumber(state[2]), tonumber(state[3]), tonumber(state[4]), former}
