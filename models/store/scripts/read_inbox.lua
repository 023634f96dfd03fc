-- Read a page of an inbox after a cursor.
-- KEYS[1] cursor hash; KEYS[2] inbox list
-- ARGV[1] cursor; ARGV[2] most entries
-- Returns {epoch or '', newest cursor, base, {entries from max(cursor, base) + 1 on}}
local state = redis.call('HMGET', KEYS[1], 'epoch', 'next', 'base')
if not state[1] then
  return {'', 0, 0, {}}
end
local base = tonumber(state[3])
local from = math.max(tonumber(ARGV[1]) - base, 0)
return {state[1], tonumber(state[2]), base, redis.call('LRANGE', KEYS[2], from, from + tonumber(ARGV[2]) - 1)}
