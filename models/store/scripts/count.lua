-- Count a hit in a window that begins with its first one.
-- KEYS[1] counter, a string that is gone when its window is over
-- ARGV[1] length of the window in ms; ARGV[2] most hits of a window; ARGV[3] 1 where the count must outlive a restart
-- Returns 0 where the window holds no more than that, else the ms until it is over
if ARGV[3] ~= '1' then
  redis.set_repl(redis.REPL_NONE) -- what is not for the append-only file waits for no sync of the disk either
end
local count, most = redis.call('INCR', KEYS[1]), tonumber(ARGV[2])
if count > 1 and count <= most then
  return 0
end
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  left = tonumber(ARGV[1])
end
return count > most and math.max(1, left) or 0
