-- One write of a simulated hub, stamped with the server's own time.
--
-- KEYS: the container; or, where each client has a key of its own, one key per id.
-- ARGV: layout, "upsert" or "refresh", age of the ping in ms, then the ids.
-- Answers: the server's time in ms; per id, whether it was there; per id, the time as stored, or nil if not written.
local layout, mode, age = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ping = now - age
local number = string.format('%.0f', ping)

-- Milliseconds since 1970 as .NET writes a UTC time (the civil calendar by Howard Hinnant's days_from_civil).
local function iso(ms)
  local floor = math.floor
  local day_ms = ms % 86400000
  local z = floor(ms / 86400000) + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153)
  local day = doy - floor((153 * mp + 2) / 5) + 1
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03d0000Z', year, month, day,
    floor(day_ms / 3600000), floor(day_ms / 60000) % 60, floor(day_ms / 1000) % 60, day_ms % 1000)
end

local layouts = {
  zset = {
    old = function(key, id) return redis.call('ZSCORE', key, id) end,
    put = function(key, id) redis.call('ZADD', key, number, id) return number end,
  },
  strings = {
    old = function(key) return redis.call('GET', key) end,
    put = function(key) redis.call('SET', key, number) return number end,
  },
  hashes = {
    old = function(key) return redis.call('EXISTS', key) == 1 end,
    put = function(key, id) redis.call('HSET', key, 'last_ping', number, 'user', 'u-' .. id) return number end,
  },
  json = {
    old = function(key, id) return redis.call('HGET', key, id) end,
    put = function(key, id, old)
      local latest = iso(ping)
      local entrance = old and string.match(old, '"EntranceTime":"(.-)"') or latest
      local value = '{"UserId":"u-%s","LatestPingTime":"%s","EntranceTime":"%s"}'
      redis.call('HSET', key, id, string.format(value, id, latest, entrance))
      return latest
    end,
  },
}

local there, stored = {}, {}
for i = 4, #ARGV do
  local id, key = ARGV[i], KEYS[i - 3] or KEYS[1]
  local old = layouts[layout].old(key, id)
  there[#there + 1] = old and 1 or 0
  stored[#stored + 1] = (old or mode == 'upsert') and layouts[layout].put(key, id, old)
end
return {now, there, stored}
