-- Sets aside an event that its receiver will not have: out of the outbox, into the stream beside it, where the oldest
-- make room. It stands in one of the two at any time.
--
-- KEYS   the outbox, the stream beside it
-- ARGV   the entry of the outbox, the id by which the receiver knows the event, how many the stream beside holds at most
--
-- Returns how many the stream beside holds now, and how many it had to drop.

local one = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
local before = redis.call('XLEN', KEYS[2])
if not one then
  return { before, 0 }
end
-- Whether we may take out is asked with an entry that can't be there.
redis.call('XDEL', KEYS[1], '0-0')

-- do: the first write comes after this line, and never before.

redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[3], '*', one[2][1], one[2][2], 'event', ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[1])
local after = redis.call('XLEN', KEYS[2])
return { after, before + 1 - after }
