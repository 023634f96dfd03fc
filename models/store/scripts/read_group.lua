-- Read messages of a group's log by seq.
-- KEYS[1] cursor hash of the group: newest, seq of the log's last entry; KEYS[2] chat log list
-- ARGV seqs
-- Returns {body or '' (not in the log: read SQL) per seq}
local newest = tonumber(redis.call('HGET', KEYS[1], 'newest') or '0')
local bodies = {}
for i, seq in ipairs(ARGV) do
  local back = newest - tonumber(seq)
  bodies[i] = back >= 0 and redis.call('LINDEX', KEYS[2], -1 - back) or ''
end
return bodies
