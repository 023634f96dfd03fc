-- Count a hit in a window that begins with its first one.
-- KEYS[1] counter, a string that is gone when its window is over
-- ARGV[1] how many to add; ARGV[2] length of the window in ms
-- Returns {hits in the window, ms until it is over}
local count = redis.call('INCRBY', KEYS[1], ARGV[1])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  left = tonumber(ARGV[2])
end
return {count, left}
