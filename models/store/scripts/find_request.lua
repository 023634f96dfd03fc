-- Look for a request in a part of an outbox. In parts, since a list may hold as much as keeps Redis busy for long.
-- KEYS[1] outbox list; KEYS[2] how many were popped of it, a string: pops between two parts must hide no entry
-- ARGV[1] id of the request, with which its entry begins: ["<id>",…
-- ARGV[2] place in all that was ever appended from which to look, ARGV[3] how many entries to look at
-- Returns the entry; else the place from which to look on, as a text; '' where the end was reached
local begins = '["' .. ARGV[1] .. '"'
local popped = tonumber(redis.call('GET', KEYS[2]) or '0')
local from = math.max(0, tonumber(ARGV[2]) - popped)
local entries = redis.call('LRANGE', KEYS[1], from, from + ARGV[3] - 1)
for _, entry in ipairs(entries) do
  if string.sub(entry, 1, #begins) == begins then
    return entry
  end
end
if #entries < tonumber(ARGV[3]) then
  return ''
end
return string.format('%d', popped + from + #entries)
