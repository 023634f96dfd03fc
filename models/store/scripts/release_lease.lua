-- Give a shard's lease back, if it is still ours.
-- KEYS[1] lease string
-- ARGV[1] token of the drain
-- Returns 1 where it was given back, else 0
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
