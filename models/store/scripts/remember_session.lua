-- Copy a session from SQL where Redis holds what the caller saw before he asked SQL. An ending in between wins.
-- KEYS[1] sessions hash
-- ARGV[1] device; ARGV[2] what Redis held ('' also where it held nothing); ARGV[3] session id according to SQL
-- Returns 1 where Redis holds the session now, else 0
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held == ARGV[3] then
  return 1
end
if held and held ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
