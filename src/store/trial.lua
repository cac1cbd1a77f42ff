-- What stands in front of `evict.lua` on servers before Redis 7. These can't be asked what our user may do, nor do they refuse
-- a whole script while they refuse writes. So it is tried, before anything is done, by calls that change nothing: what they
-- name is not there, or no number. Such a call is refused where the real one would be.
redis.replicate_commands()

-- A member and a field that nobody has, and a key that nobody writes, among our own.
local NOBODY = '\0presence-reaper: nobody\0'
local NOTHING = 'presence-reaper:nothing'

-- By command, what stands behind the key.
local HARMLESS = {
  SREM = { NOBODY }, ZREM = { NOBODY }, HDEL = { NOBODY }, LREM = { '?', NOBODY }, PEXPIRE = { '?' },
  HSET = { NOBODY, '', NOBODY }, HINCRBY = { NOBODY, '?' }, XADD = { '?', NOBODY, '' },
}

local function said(...)
  local reply = redis.pcall(...)
  return type(reply) == 'table' and reply.err or ''
end

-- Nothing, written to the start of a string: of all writes the one that changes no key of any type, and one that is
-- refused for want of memory too.
local refused = KEYS[1] and said('SETRANGE', KEYS[1], 0, '') or ''
for code in string.gmatch('OOM READONLY MISCONF NOREPLICAS', '%a+') do
  local start = string.find(refused, code .. ' ', 1, true)
  if start then
    return redis.error_reply((string.gsub(string.sub(refused, start), '[\r\n]', '')))
  end
end

-- Keys were asked for with the call as a whole, so a command stands for itself on every key. Whether a channel may be told
-- shows only when it is.
local denied = {}
local function is_denied(call)
  local verb = call[1]
  if denied[verb] == nil and verb ~= 'PUBLISH' then
    local words = { call[2], unpack(HARMLESS[verb] or {}) }
    if verb == 'UNLINK' then
      words = { NOTHING }
    elseif not HARMLESS[verb] then
      words = { unpack(call, 2) }
    end
    denied[verb] = string.find(said(verb, unpack(words)), "can't run", 1, true) ~= nil
  end
  return denied[verb]
end
