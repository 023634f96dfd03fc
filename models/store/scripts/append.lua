-- Append the entries of one shard to one user: his inbox, and the log of the conversation each belongs to.
-- Nothing happens while the user has no epoch (Redis lost his data): the caller rebuilds it first. An entry whose
-- position is not above the newest applied of its shard was applied by an earlier try and is left out.
-- KEYS[1] cursor hash: next, base, epoch, s:<shard> newest shard_seq applied, d:<device> acknowledged cursor, v:<device>:<shard>
-- KEYS[2] inbox list, oldest first; KEYS[3] online hash; KEYS[4..] chat log lists
-- ARGV[1] shard; ARGV[2] most inbox entries; ARGV[3] most log entries; then per entry, in order of position:
--   position, head of the inbox entry, body, number of its log in KEYS (0 = none)
-- Numbers are spelled here, once: Redis and Lua spell them as floating-point numbers, which takes several times as long.
-- Returns lines: epoch ('' = nothing was done); a cursor per entry, by comma, 0 = already applied; newest cursor; then
--   the connections of each device online. A text, since Redis sends a table in several pieces, each a system call.
local state = redis.call('HMGET', KEYS[1], 'epoch', 'next', 's:' .. ARGV[1])
if not state[1] then
  return ''
end
local newest, newest_text = tonumber(state[2]), state[2]
local applied, applied_text = tonumber(state[3] or '0'), state[3] or '0'
local inbox_max, log_max = tonumber(ARGV[2]), tonumber(ARGV[3])
local cursors, length = {}, 0
for i = 4, #ARGV, 4 do
  local position, body, log = tonumber(ARGV[i]), ARGV[i + 2], tonumber(ARGV[i + 3])
  if position > applied then
    applied, applied_text = position, ARGV[i]
    length = redis.call('RPUSH', KEYS[2], ARGV[i + 1] .. body)
    newest = newest + 1
    newest_text = string.format('%d', newest)
    cursors[#cursors + 1] = newest_text
    if log > 0 then
      if redis.call('RPUSH', KEYS[log], body) > log_max then
        redis.call('LTRIM', KEYS[log], -log_max, -1)
      end
    end
  else
    cursors[#cursors + 1] = '0'
  end
end
redis.call('HSET', KEYS[1], 'next', newest_text, 's:' .. ARGV[1], applied_text)
if length > inbox_max then
  redis.call('LTRIM', KEYS[2], -inbox_max, -1)
  redis.call('HINCRBY', KEYS[1], 'base', length - inbox_max)
end
local lines = redis.call('HVALS', KEYS[3])
table.insert(lines, 1, state[1] .. '\n' .. table.concat(cursors, ',') .. '\n' .. newest_text)
return table.concat(lines, '\n')
