-- Say how long too many failures stand in the window that ends now, noting one more before where asked to.
-- KEYS[1] failures, a list of their times in ms, newest first
-- ARGV[1] length of the window in ms; ARGV[2] how many are too many; ARGV[3] '1': note one more
-- Returns ms until fewer than that stand in the window, 0 where fewer do
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local window, most = tonumber(ARGV[1]), tonumber(ARGV[2])
if ARGV[3] == '1' then
  redis.call('LPUSH', KEYS[1], string.format('%.0f', now))
  redis.call('LTRIM', KEYS[1], 0, most - 1)
  redis.call('PEXPIRE', KEYS[1], window)
end
local oldest = redis.call('LINDEX', KEYS[1], most - 1)
if not oldest then
  return 0
end
return math.max(0, oldest + window - now)
