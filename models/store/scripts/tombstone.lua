-- Replace a recalled one-to-one message in an inbox and in a log. Repeating it changes nothing more.
-- KEYS[1] inbox list; KEYS[2] chat log list
-- ARGV[1] how the inbox entry begins (<shard>:<position>:); ARGV[2] how the log entry begins ({"id":"…"); ARGV[3] body
-- Returns how many entries were replaced
local page, replaced = 200, 0
local function replace(key, matches, build)
  local stop = redis.call('LLEN', key) - 1
  while stop >= 0 do
    local start = math.max(stop - page + 1, 0)
    local entries = redis.call('LRANGE', key, start, stop)
    for i = #entries, 1, -1 do
      if matches(entries[i]) then
        redis.call('LSET', key, start + i - 1, build(entries[i]))
        replaced = replaced + 1
        return
      end
    end
    stop = start - 1
  end
end
replace(KEYS[1], function(entry)
  return string.sub(entry, 1, #ARGV[1]) == ARGV[1]
end, function(entry)
  return string.sub(entry, 1, string.find(entry, '|', 1, true)) .. ARGV[3]
end)
replace(KEYS[2], function(entry)
  return string.sub(entry, 1, #ARGV[2]) == ARGV[2]
end, function()
  return ARGV[3]
end)
return replaced
