-- Let a device count no more, and trim what no other device lacks. The user's last device leaves the inbox as it is: the
-- next one starts where it stood. What it had acknowledged is known ever after, for the sender's question what became of a
-- message: a:<shard> the shard_seqs that devices acknowledged which are gone, as ranges `after-upto` by blank. Only what has
-- a time (t:) counts, since a device begins with v: of all there is.
-- KEYS[1] cursor hash; KEYS[2] inbox list
-- ARGV[1] device
-- Returns 1 where the device counted, else 0
local MOST_BYTES = 200 -- of ranges that do not meet: then the oldest goes, and of its messages it is said that they wait
local fields = redis.call('HGETALL', KEYS[1])
local base, lowest, was_known = 0, nil, 0
local seen, began, timed, gone = {}, {}, {}, {}
for i = 1, #fields, 2 do
  local field, kind, rest = fields[i], string.sub(fields[i], 1, 2), string.sub(fields[i], 3)
  if field == 'base' then
    base = tonumber(fields[i + 1])
  elseif (kind == 'd:' or kind == 'n:') and rest == ARGV[1] then
    if kind == 'd:' then
      was_known = 1
    end
    redis.call('HDEL', KEYS[1], field)
  elseif kind == 'd:' then
    local acknowledged = tonumber(fields[i + 1])
    if not lowest or acknowledged < lowest then
      lowest = acknowledged
    end
  elseif kind == 'a:' then
    gone[rest] = fields[i + 1]
  elseif kind == 'v:' or kind == 't:' or kind == 'f:' then
    local device, shard = string.match(rest, '^(.*):(%d+)$')
    if device == ARGV[1] then
      redis.call('HDEL', KEYS[1], field)
      if kind == 'v:' then
        seen[shard] = fields[i + 1]
      elseif kind == 'f:' then
        began[shard] = fields[i + 1]
      else
        timed[#timed + 1] = shard
      end
    end
  end
end
for _, shard in ipairs(timed) do
  local after, upto = tonumber(began[shard] or '0'), tonumber(seen[shard])
  local before, last_after, last_upto = string.match(gone[shard] or '', '^(.-)(%d+)%-(%d+)$')
  if last_after and after <= tonumber(last_upto) and upto >= tonumber(last_after) then
    after, upto = math.min(after, tonumber(last_after)), math.max(upto, tonumber(last_upto))
  else
    before = gone[shard] and gone[shard] .. ' ' or ''
  end
  local ranges = string.format('%s%d-%d', before, after, upto)
  while #ranges > MOST_BYTES do
    ranges = string.match(ranges, ' (.*)')
  end
  redis.call('HSET', KEYS[1], 'a:' .. shard, ranges)
end
if was_known == 1 and lowest and lowest > base then
  redis.call('LTRIM', KEYS[2], lowest - base, -1)
  redis.call('HSET', KEYS[1], 'base', lowest)
end
return was_known
