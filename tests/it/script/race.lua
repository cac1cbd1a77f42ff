-- One ping of a client that writes only where its entry is (ARGV[4] = "xx"), or wherever it is not. Says whether it was.
-- KEYS[1]: the entry's key. ARGV: layout, member, value, mode.
local key, layout, member, value, mode = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local there, write
if layout == 'zset' then
  there = redis.call('ZSCORE', key, member)
  write = { 'ZADD', key, value, member }
elseif layout == 'strings' then
  there = redis.call('GET', key)
  write = { 'SET', key, value }
elseif layout == 'hashes' then
  there = redis.call('EXISTS', key) == 1
  write = { 'HSET', key, 'last_ping', value, 'user', 'u' }
else
  there = redis.call('HGET', key, member)
  write = { 'HSET', key, member, '{"UserId":"u","LatestPingTime":' .. value .. '}' }
end
if there or mode ~= 'xx' then
  redis.call(unpack(write))
end
return there and 1 or 0
