-- Remove the decided requests from the head of an outbox. Only the holder of the lease may: nobody else can have
-- removed anything since he read the head.
-- KEYS[1] outbox list; KEYS[2] lease string; KEYS[3] how many were popped of the list ever, a string
-- ARGV[1] token of the drain; ARGV[2] how many
-- Returns 1 where they were removed, else 0
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
local before = redis.call('LLEN', KEYS[1])
redis.call('LTRIM', KEYS[1], ARGV[2], -1)
redis.call('INCRBY', KEYS[3], math.min(before, tonumber(ARGV[2])))
return 1
