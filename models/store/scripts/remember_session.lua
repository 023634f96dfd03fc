-- Copy a session from SQL, unless some session of the user has ended since the caller read the generation.
-- KEYS[1] sessions hash: device to session id, '' to the generation
-- ARGV[1] device; ARGV[2] generation, '' where there was none; ARGV[3] session id according to SQL
-- Returns 1 where Redis holds the session now, else 0
if (redis.call('HGET', KEYS[1], '') or '') ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
