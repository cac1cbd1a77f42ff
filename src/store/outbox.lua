-- Reads a stream of ours from its head, or on from an entry, as far as both bounds allow; one entry at least.
--
-- KEYS   the stream
-- ARGV   behind which entry (empty: from the head), how many milliseconds old the oldest may be (empty: any age),
--        how many entries at most, how many bytes at most
--
-- Returns how many entries stand in the stream, and those that were read. One is asked for at a time: a reply of many
-- large ones would fill the server's memory before we could count its bytes.

local behind, age, most, room = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

-- The least id above this one; none where a double can't count on. (An exclusive range is not known before Redis 6.2.)
local function above(id)
  local time, number = string.match(id, '^(%d+)%-(%d+)$')
  return number and #number < 16 and time .. '-' .. string.format('%.0f', number + 1) or nil
end

local from = '-'
if behind ~= '' then
  from = above(behind)
elseif age ~= '' then
  local now = redis.call('TIME')
  from = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) - age)
end

local found = {}
-- bound: as many as asked for, and as many bytes
while from and #found < most and room > 0 do
  local one = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 1)[1]
  if not one then
    break
  end
  for _, word in ipairs(one[2]) do
    room = room - #word
  end
  if room < 0 and #found > 0 then
    break
  end
  found[#found + 1] = one
  from = above(one[1])
end
return { redis.call('XLEN', KEYS[1]), found }
