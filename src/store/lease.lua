-- Takes a lease that nobody holds, keeps our own, or gives it back; leaves another's alone.
--
-- KEYS   the lease
-- ARGV   our value, for how many milliseconds (0: give it back)
--
-- Returns the value that stands there afterwards; an empty one for none.

local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then
  return held
end

-- do: the first write comes after this line, and never before.

if ARGV[2] == '0' then
  redis.call('UNLINK', KEYS[1])
  return ''
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
