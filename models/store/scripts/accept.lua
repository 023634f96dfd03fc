-- Append to a shard's outbox what may be accepted, and ring at the drain that holds the shard.
-- The sessions and counters asked for belong to other owners: asked for apart, each send took two round trips (decision 0006).
-- The doorbell tells what was appended, and where it ends in all that ever was: decision 0007.
-- KEYS[1] outbox list; KEYS[2] how many were popped of it, a string; KEYS[3..] session hashes of users, and counters of their
--   sends: strings, gone when the window is over
-- ARGV[1] doorbell channel; ARGV[2] shard; ARGV[3] most bytes of entries that the doorbell tells;
-- ARGV[4] length of a rate's window in ms; ARGV[5] most sends of a window; ARGV[6] 1 where counts must outlive a restart;
--   then per entry, in order:
--   entry, number of its session hash in KEYS (0 = not asked), device, session id, number of its counter in KEYS (0 = not counted)
-- Returns numbers, by blank: how many have heard the doorbell; entries in the list now, 0 where none was appended; then per
--   entry 0 = appended, -1 = its session does not stand here, else the ms until its sender may send again
local window, most = ARGV[4], tonumber(ARGV[5])
local taken, answers, bytes = {}, {}, 0
if ARGV[6] ~= '1' then
  redis.set_repl(redis.REPL_NONE)
end
for i = 7, #ARGV, 5 do
  local sessions, counter, refusal = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 4]), '0'
  if sessions > 0 and redis.call('HGET', KEYS[sessions], ARGV[i + 2]) ~= ARGV[i + 3] then
    refusal = '-1'
  elseif counter > 0 then
    local count = redis.call('INCR', KEYS[counter])
    if count == 1 or count > most then
      local left = redis.call('PTTL', KEYS[counter])
      if left < 0 then
        redis.call('PEXPIRE', KEYS[counter], window)
        left = tonumber(window)
      end
      if count > most then
        refusal = string.format('%d', math.max(1, left))
      end
    end
  end
  if refusal == '0' then
    taken[#taken + 1] = ARGV[i]
    bytes = bytes + #ARGV[i]
  end
  answers[#answers + 1] = refusal
end
redis.set_repl(redis.REPL_ALL)
local heard, length = 1, 0
if #taken > 0 then
  length = redis.call('RPUSH', KEYS[1], unpack(taken))
  local last = tonumber(redis.call('GET', KEYS[2]) or '0') + length
  local told = bytes <= tonumber(ARGV[3]) and table.concat(taken, '\n') or ''
  heard = redis.call('PUBLISH', ARGV[1], string.format('%s %d %d\n', ARGV[2], last, #taken) .. told)
end
return string.format('%d %d ', heard, length) .. table.concat(answers, ' ')
