-- Forget a connection, unless a newer one of the same device has taken its place (ORIG A4).
-- KEYS[1] online hash
-- ARGV[1] device; ARGV[2] connection (process:connection:protocol)
-- Returns 1 where it was forgotten, else 0
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
