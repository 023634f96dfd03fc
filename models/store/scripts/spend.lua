-- Take an amount of what may be spent in a window that begins with the first amount.
-- KEYS[1] counter, a string that is gone when its window is over
-- ARGV[1] length of the window in ms; ARGV[2] most of a window; ARGV[3] amount; ARGV[4] '1': take it, else only ask
-- Returns 0 where so much is left, else the ms until the window is over; what is not left takes nothing
local spent, amount = tonumber(redis.call('GET', KEYS[1]) or 0), tonumber(ARGV[3])
local is_fresh = redis.call('PTTL', KEYS[1]) < 0
if spent + amount > tonumber(ARGV[2]) then
  return is_fresh and tonumber(ARGV[1]) or math.max(1, redis.call('PTTL', KEYS[1]))
end
if ARGV[4] == '1' then
  redis.call('INCRBY', KEYS[1], ARGV[3])
  if is_fresh then
    redis.call('PEXPIRE', KEYS[1], ARGV[1])
  end
end
return 0
