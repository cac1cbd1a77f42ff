-- Evicts a batch of entries: compare, check, then do. It never parses a time.
--
-- KEYS   every key that is read or written, each once
-- ARGV   from, until                        the window of server time in ms; outside it nothing is done
--        n, then n probes, each             GET     key, expected
--                                           ZSCORE  key, member, expected
--                                           HMGET   key, m, m fields, m expected
--        n, then n entries, each            key, its type, 1 if it is a member of that key else 0,
--                                           m, m slots,
--                                           m, m deeds, each: verb, k, k keys, a, a arguments
-- A key is an index into KEYS, a slot is an expected value counted from 1 over all probes. An expected value is "="
-- and the bytes, or "-" for absence.
--
-- Returns server time, then one code an entry; server time alone if the window was missed.
-- An error in the middle would keep the writes before it, so whatever could fail is asked before the first write, for
-- the whole batch; and every key is in KEYS, so that Redis can check them too.

local EVICTED, SPARED, GONE, WRONG_TYPE, PERMISSION, OTHER, UNKNOWN = 0, 1, 2, 3, 4, 5, 6

local at = 0
local function take()
  at = at + 1
  return ARGV[at]
end
local function number()
  return tonumber(take())
end
local function list(read)
  local items = {}
  for i = 1, number() do
    items[i] = read()
  end
  return items
end

-- Read once: inside a script the clock stands still on some servers and moves on others.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local from = number()
local till = number()
if now < from or now > till then
  return { string.format('%.0f', now) }
end

local function fault_of(reply)
  local text = type(reply) == 'table' and reply.err
  if not text then
    return nil
  elseif string.find(text, 'WRONGTYPE', 1, true) then
    return WRONG_TYPE
  elseif string.find(text, 'NOPERM', 1, true) or string.find(text, 'ACL ', 1, true)
      or string.find(text, 'user executing the script', 1, true) then
    return PERMISSION
  end
  return OTHER
end

-- compare

-- A slot is true where the bytes are those that were judged, false where they differ, else what went wrong.
local slots = {}
local function compare(found, expected)
  if not found then
    slots[#slots + 1] = expected == '-' or GONE
  else
    slots[#slots + 1] = expected == '=' .. found
  end
end

local probes = {
  GET = function(key)
    local found = redis.pcall('GET', key)
    local expected = take()
    local fault = fault_of(found)
    if fault then
      slots[#slots + 1] = fault
    else
      compare(found, expected)
    end
  end,
  -- The same double prints differently on different servers, so scores are compared as numbers.
  ZSCORE = function(key)
    local found = redis.pcall('ZSCORE', key, take())
    local expected = take()
    local fault = fault_of(found)
    if fault then
      slots[#slots + 1] = fault
    elseif not found then
      slots[#slots + 1] = GONE
    else
      slots[#slots + 1] = tonumber(found) == tonumber(expected)
    end
  end,
  HMGET = function(key)
    local fields = list(take)
    local found = redis.pcall('HMGET', key, unpack(fields))
    local fault = fault_of(found)
    for i = 1, #fields do
      local expected = take()
      if fault then
        slots[#slots + 1] = fault
      else
        compare(found[i], expected)
      end
    end
  end,
}
for _ = 1, number() do
  local probe = probes[take()]
  probe(KEYS[number()])
end

-- check

local types = {}
local function type_of(key)
  if not types[key] then
    local reply = redis.pcall('TYPE', KEYS[key])
    types[key] = fault_of(reply) or reply.ok or reply
  end
  return types[key]
end

local NEEDS = { SREM = 'set', ZREM = 'zset', HDEL = 'hash' }
local permitted = {}
local function refusal_of(deed)
  for _, key in ipairs(deed.keys) do
    local kind = type_of(key)
    if type(kind) == 'number' then
      return kind
    elseif kind ~= 'none' and NEEDS[deed.verb] and kind ~= NEEDS[deed.verb] then
      return WRONG_TYPE
    end
  end
  if redis.acl_check_cmd then
    local name = deed.verb .. ' ' .. table.concat(deed.keys, ' ')
    if permitted[name] == nil then
      permitted[name] = redis.acl_check_cmd(unpack(deed.words))
    end
    if not permitted[name] then
      return PERMISSION
    end
  end
  return nil
end

local function judge(entry)
  local kind = type_of(entry.key)
  if kind == 'none' then
    return GONE
  elseif type(kind) == 'number' then
    return kind
  end
  local changed = false
  for _, slot in ipairs(entry.slots) do
    local state = slots[slot]
    if state == GONE and entry.member then
      return GONE
    elseif state == false or state == GONE then
      changed = true
    elseif state ~= true then
      return state
    end
  end
  if changed then
    return SPARED
  elseif kind ~= entry.type then
    return WRONG_TYPE
  end
  for _, deed in ipairs(entry.deeds) do
    local refusal = refusal_of(deed)
    if refusal then
      return refusal
    end
  end
  return EVICTED
end

local function read_deed()
  local deed = { verb = take() }
  deed.keys = list(number)
  local words = { deed.verb }
  for _, key in ipairs(deed.keys) do
    words[#words + 1] = KEYS[key]
  end
  for _ = 1, number() do
    words[#words + 1] = take()
  end
  deed.words = words
  return deed
end
local function read_entry()
  local entry = { key = number() }
  entry.type = take()
  entry.member = take() == '1'
  entry.slots = list(number)
  entry.deeds = list(read_deed)
  return entry
end

local entries = list(read_entry)
local codes = {}
for i, entry in ipairs(entries) do
  codes[i] = judge(entry)
end

-- do: the first write comes after this line, and never before.

-- Nothing here can fail after the checks; should it all the same, the entry's own removal, which comes last, is not
-- reached, and it stays for the next look.
local function evict(entry)
  for _, deed in ipairs(entry.deeds) do
    if fault_of(redis.pcall(unpack(deed.words))) then
      return UNKNOWN
    end
  end
  return EVICTED
end

local reply = { string.format('%.0f', now) }
for i, entry in ipairs(entries) do
  reply[i + 1] = codes[i] == EVICTED and evict(entry) or codes[i]
end
return reply
