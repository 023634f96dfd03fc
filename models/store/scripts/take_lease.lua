-- Take or renew the lease of a shard.
-- KEYS[1] lease string
-- ARGV[1] token of the drain; ARGV[2] lease in ms; ARGV[3] who counts as the holder where nobody is: the token to take
--   the lease, '' to renew it only (one that ran out may have been another's meanwhile, who has popped what we hold)
-- Returns 1 where the lease is ours now, else 0
local holder = redis.call('GET', KEYS[1])
if (holder or ARGV[3]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
