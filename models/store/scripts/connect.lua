-- Make a connection the live one of its device, and tell where its reading starts.
-- A device seen for the first time starts at the oldest entry when it is the user's first, else at the newest.
-- KEYS[1] cursor hash; KEYS[2] online hash: device to its connections, oldest first, separated by a space
-- ARGV[1] device; ARGV[2] connection (process:number:protocol); ARGV[3] lease in ms; ARGV[4] most connections kept
-- Returns {epoch or '' (open the inbox, then call again), newest cursor, base, acknowledged, formerly live or '',
--   1 where the device is new}
local state = redis.call('HMGET', KEYS[1], 'epoch', 'next', 'base', 'd:' .. ARGV[1])
if not state[1] then
  return {'', 0, 0, 0, '', 0}
end
local acknowledged, is_new = state[4], 0
if not acknowledged then
  is_new = 1
  acknowledged = state[3]
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
    -- It counts as having all there is, so a rebuild from SQL must not give it what came before.
    for shard, position in pairs(seen) do
      redis.call('HSET', KEYS[1], 'v:' .. ARGV[1] .. ':' .. shard, position)
    end
  end
end
local kept, former = {}, ''
for connection in string.gmatch(redis.call('HGET', KEYS[2], ARGV[1]) or '', '%S+') do
  if connection ~= ARGV[2] then
    kept[#kept + 1] = connection
    former = connection
  end
end
kept[#kept + 1] = ARGV[2]
local from = math.max(#kept - tonumber(ARGV[4]) + 1, 1)
redis.call('HSET', KEYS[2], ARGV[1], table.concat(kept, ' ', from))
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {state[1], tonumber(state[2]), tonumber(state[3]), tonumber(acknowledged), former, is_new}
