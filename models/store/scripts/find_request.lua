-- Find a request that waits in an outbox.
-- KEYS[1] outbox list
-- ARGV[1] id of the request, with which its entry begins: ["<id>",…; ARGV[2] longest list that is looked at, '' for any
-- Returns the entry, '' where it is not there
if ARGV[2] ~= '' and redis.call('LLEN', KEYS[1]) > tonumber(ARGV[2]) then
  return ''
end
local page, from, begins = 500, 0, '["' .. ARGV[1] .. '"'
while true do
  local entries = redis.call('LRANGE', KEYS[1], from, from + page - 1)
  for _, entry in ipairs(entries) do
    if string.sub(entry, 1, #begins) == begins then
      return entry
    end
  end
  if #entries < page then
    return ''
  end
  from = from + page
end
