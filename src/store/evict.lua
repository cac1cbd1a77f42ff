-- Evicts a batch of entries: compare, check, then do, announce. It never parses a time, and formats none.
--
-- KEYS   every key that is read or written, each once
-- ARGV   from, until                        the window of server time in ms; outside it nothing is done
--        n, then n texts                    the seconds from `from` on, as date and time; none if none is wanted
--        the lease, and its value           unless that is ours nothing is done; 0 alone: none is needed
--        an operator's release, and its id  unless so many are left of that nothing is done; 0 alone: none is needed
--        n, then n probes, each             GET        key, expected
--                                           ZSCORE     key, member, expected
--                                           HGET       key, field, expected
--                                           HMGET      key, m, m fields, m expected
--                                           SISMEMBER  key, member
--                                           IDLE       key, the least idle time in seconds or nothing
--                                           ASK        a verb that asks, m, m keys, m, m arguments, expected
--        n, then n lists, each              what reads it, key, m, m arguments, what counts it, how many it may be,
--                                             m, m expected
--        n, then n entries, each            key, its type, 1 if it is a member of that key else 0,
--                                           m, m slots of its own,
--                                           m, m slots of what else it was judged by,
--                                           m, m lists, counted from 1
--                                           m, m conditions that protect it, or compare what was read
--                                           m, m deeds, the entry's own removal last
--                                           m, m deeds for when it is gone, each: a when, a deed
--                                           m, m notices, each: a when, verb, k, k keys, a, a arguments, each: p, p parts
--                                             the verb TELL is no command: its one argument is told in the answer
--                                           m, m records, each as a notice; written before anything else
-- A condition is: verb, k, k keys, a, a arguments, how the answer is compared, with what, 1 if it holds where that is so,
-- else 0. A when is 0 for always, or 1 and a condition. A deed is: verb, k, k keys, a, a arguments.
-- An answer is compared as "yes" (1), "nothing" (an empty list), "text", "number", or "same": as an expected value is, for
-- what was read as JSON is not read so here.
-- A part is "=" and bytes, or a mark that is filled in here: "at", "since MS", "remaining", "outcome". What an id brought in stands
-- behind a "=" and is never read.
-- A key is an index into KEYS, a slot is an expected value counted from 1 over all probes. An expected value is "="
-- and the bytes, or "-" for absence.
--
-- Returns server time, then one code an entry; server time alone if the window was missed, with FENCED alone if the
-- lease is not ours, with EXHAUSTED alone if the release does not allow so many. Of an entry that was evicted while not
-- all of its notices went out, or one had something to tell, or not all was done that stands under a condition: a list,
-- the code, the places of the notices that failed, counted from 1, below zero the places of those that their condition
-- kept back, lists of a place and what it tells, and lists of the place of a deed that was left out.
-- An error in the middle would keep the writes before it, so whatever could fail is asked before the first write, for
-- the whole batch; and every key is in KEYS, so that Redis can check them too.

local EVICTED, SPARED, GONE, WRONG_TYPE, PERMISSION, OTHER, UNKNOWN, FENCED = 0, 1, 2, 3, 4, 5, 6, 7
local EXHAUSTED, PROTECTED, UNSUPPORTED, AUDIT = 8, 9, 10, 11

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
local seconds = list(take)
local lease = number()
if lease > 0 and redis.call('GET', KEYS[lease]) ~= take() then
  return { string.format('%.0f', now), FENCED }
end
local release = number()
local released = release > 0 and take()

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
local function weigh(found, expected, equals)
  local fault = fault_of(found)
  if fault then
    slots[#slots + 1] = fault
  elseif not found then
    slots[#slots + 1] = expected == '-' or GONE
  else
    slots[#slots + 1] = equals(found, expected)
  end
end
local function is_same_text(found, expected)
  return expected == '=' .. found
end
-- The same double prints differently on different servers, so scores are compared as numbers.
local function is_same_number(found, expected)
  return tonumber(found) == tonumber(string.sub(expected, 2))
end

local probes = {
  GET = function(key)
    local found = redis.pcall('GET', key)
    weigh(found, take(), is_same_text)
  end,
  HGET = function(key)
    local found = redis.pcall('HGET', key, take())
    weigh(found, take(), is_same_text)
  end,
  ZSCORE = function(key)
    local found = redis.pcall('ZSCORE', key, take())
    weigh(found, take(), is_same_number)
  end,
  SISMEMBER = function(key)
    local found = redis.pcall('SISMEMBER', key, take())
    slots[#slots + 1] = fault_of(found) or found == 1 or GONE
  end,
  -- Nobody has used the key since: the idle time only grows while nobody does.
  IDLE = function(key)
    local least = tonumber(take())
    local found = least and redis.pcall('OBJECT', 'IDLETIME', key)
    slots[#slots + 1] = fault_of(found) or not least or found and found >= least or GONE
  end,
  HMGET = function(key)
    local fields = list(take)
    local found = redis.pcall('HMGET', key, unpack(fields))
    local failed = fault_of(found)
    for i = 1, #fields do
      weigh(failed and found or found[i], take(), is_same_text)
    end
  end,
}

-- True where a list holds what it held, in any order, false where it does not.
local function is_same(found, expected)
  local known, missing = {}, #expected
  for _, item in ipairs(expected) do
    known[item] = 'missing'
  end
  for _, item in ipairs(found) do
    if not known[item] then
      return false
    elseif known[item] == 'missing' then
      known[item] = 'found'
      missing = missing - 1
    end
  end
  return missing == 0
end
local function compare_list()
  local verb, key = take(), KEYS[number()]
  local args, count, most, expected = list(take), take(), number(), list(take)
  local size = redis.pcall(count, key)
  local fault = fault_of(size)
  if fault then
    return fault
  elseif size > most then
    return false
  end
  local found = redis.pcall(verb, key, unpack(args))
  return fault_of(found) or is_same(found, expected)
end

-- ask

local questions = {
  EXISTS = function(keys)
    return redis.pcall('EXISTS', keys[1])
  end,
  SISMEMBER = function(keys, args)
    return redis.pcall('SISMEMBER', keys[1], args[1])
  end,
  HEXISTS = function(keys, args)
    return redis.pcall('HEXISTS', keys[1], args[1])
  end,
  SINTER = function(keys)
    return redis.pcall('SINTER', keys[1], keys[2])
  end,
  GET = function(keys)
    return redis.pcall('GET', keys[1])
  end,
  HGET = function(keys, args)
    return redis.pcall('HGET', keys[1], args[1])
  end,
  ZSCORE = function(keys, args)
    return redis.pcall('ZSCORE', keys[1], args[1])
  end,
}
local answers = {
  yes = function(found)
    return found == 1
  end,
  nothing = function(found)
    return #found == 0
  end,
  text = function(found, with)
    return found == with
  end,
  number = function(found, with)
    return found and tonumber(found) == tonumber(with)
  end,
}

-- What was answered by yes or no: emptiness is a yes.
local function compare_answer()
  local verb = take()
  local keys = {}
  for i, key in ipairs(list(number)) do
    keys[i] = KEYS[key]
  end
  local found = questions[verb](keys, list(take))
  local expected = take()
  local fault = fault_of(found)
  if verb == 'SINTER' and not fault then
    found = #found == 0 and 1 or 0
  end
  slots[#slots + 1] = fault or expected == '=' .. found
end
for _ = 1, number() do
  local name = take()
  if name == 'ASK' then
    compare_answer()
  else
    probes[name](KEYS[number()])
  end
end
local lists = list(compare_list)

-- Whether a condition holds, or why nobody can say.
local function ask(condition)
  local found = questions[condition.verb](condition.names, condition.args)
  local fault = fault_of(found)
  if fault then
    return fault
  elseif condition.how == 'same' then
    return (found and '=' .. found or '-') ~= condition.with and SPARED
  end
  return answers[condition.how](found, condition.with) == condition.holds
end

local function command(verb, keys, args)
  local words = { verb }
  for _, key in ipairs(keys) do
    words[#words + 1] = KEYS[key]
  end
  for _, arg in ipairs(args) do
    words[#words + 1] = arg
  end
  return words
end

local function read_condition()
  local condition = { verb = take(), names = {} }
  condition.keys = list(number)
  for i, key in ipairs(condition.keys) do
    condition.names[i] = KEYS[key]
  end
  condition.args = list(take)
  condition.calls = { command(condition.verb, condition.keys, condition.args) }
  condition.how = take()
  condition.with = take()
  condition.holds = take() == '1'
  return condition
end
local function read_when()
  return number() == 1 and read_condition() or nil
end

-- One that holds counts for more than a doubt about another.
local function protection_of(entry)
  local doubt
  for _, condition in ipairs(entry.unless) do
    local state = ask(condition)
    if state == true then
      return PROTECTED
    end
    doubt = doubt or state
  end
  return doubt
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

local NEEDS = {
  SREM = 'set', ZREM = 'zset', HDEL = 'hash', LREM = 'list', HSET = 'hash', ['decr-ref'] = 'hash', XADD = 'stream',
  SISMEMBER = 'set', SINTER = 'set', HEXISTS = 'hash', HGET = 'hash', GET = 'string', ZSCORE = 'zset',
}
local CREATES = { HSET = true, XADD = true }

-- Of keys that do not exist: the type that a step of this batch needs there, and whether one would bring it about. Nothing
-- else changes what a key may be used for.
local wanted = {}
local created = {}
local function clashes(key, verb)
  local need, before = NEEDS[verb], wanted[key]
  if need and before and need ~= before and (CREATES[verb] or created[key]) then
    return true
  end
  wanted[key] = before or need
  created[key] = created[key] or CREATES[verb]
  return false
end

-- As Redis reads one, but for those of more digits than any counter has.
local function integer(text)
  local is_one = text and (text == '0' or string.find(text, '^%-?[1-9]%d*$')) and #text <= 16
  return is_one and tonumber(text)
end

local permitted = {}
local function refusal_of_call(call, name)
  if not redis.acl_check_cmd then
    -- A server that can't be asked is older than this command, too.
    return call[1] == 'SPUBLISH' and UNSUPPORTED or is_denied and is_denied(call) and PERMISSION or nil
  end
  name = call[1] .. ' ' .. name
  if permitted[name] == nil then
    local known, may = pcall(redis.acl_check_cmd, unpack(call))
    permitted[name] = not known and UNSUPPORTED or not may and PERMISSION or true
  end
  return permitted[name] ~= true and permitted[name] or nil
end

local function refusal_of(step)
  if step.verb == 'TELL' then
    return nil
  end
  for _, key in ipairs(step.keys) do
    local kind, need = type_of(key), NEEDS[step.verb]
    if type(kind) == 'number' then
      return kind
    elseif kind == 'none' and clashes(key, step.verb) or kind ~= 'none' and need and kind ~= need then
      return WRONG_TYPE
    end
  end
  local name = step.channel or table.concat(step.keys, ' ')
  for _, call in ipairs(step.calls) do
    local refusal = refusal_of_call(call, name)
    if refusal then
      return refusal
    end
  end
  if step.verb == 'decr-ref' and type_of(step.keys[1]) == 'hash' then
    local found = redis.pcall('HGET', KEYS[step.keys[1]], step.args[1])
    return fault_of(found) or found and not integer(found) and WRONG_TYPE or nil
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
  for _, slot in ipairs(entry.elsewhere) do
    local state = slots[slot]
    if state == false or state == GONE then
      changed = true
    elseif state ~= true then
      return state
    end
  end
  for _, place in ipairs(entry.lists) do
    if lists[place] == false then
      changed = true
    elseif lists[place] ~= true then
      return lists[place]
    end
  end
  if changed then
    return SPARED
  elseif kind ~= entry.type then
    return WRONG_TYPE
  end
  local protection = protection_of(entry)
  if protection then
    return protection
  end
  for _, record in ipairs(entry.records) do
    if refusal_of(record) then
      return AUDIT
    end
  end
  for _, steps in ipairs({ entry.deeds, entry.later, entry.notices, { entry.count } }) do
    for _, step in ipairs(steps) do
      local refusal = step.when and refusal_of(step.when) or refusal_of(step)
      if refusal then
        return refusal
      end
    end
  end
  return EVICTED
end

local marks = {
  at = function()
    return seconds[math.floor(now / 1000) - math.floor(from / 1000) + 1] .. string.format('.%03dZ', now % 1000)
  end,
  since = function(part)
    return string.format('%.0f', now - tonumber(string.sub(part, 7)))
  end,
  remaining = function(_, remaining)
    return string.format('%.0f', remaining)
  end,
  outcome = function(_, _, outcome)
    return outcome
  end,
}
local function spell(notice, remaining, outcome)
  local args = {}
  for i, parts in ipairs(notice.args) do
    local text = {}
    for j, part in ipairs(parts) do
      if string.sub(part, 1, 1) == '=' then
        text[j] = string.sub(part, 2)
      else
        text[j] = marks[string.match(part, '%a+')](part, remaining, outcome)
      end
    end
    args[i] = table.concat(text)
  end
  return command(notice.verb, notice.keys, args)
end

-- What a verb is to Redis, where it is not a command by itself.
local spellings = {
  LREM = function(keys, args)
    return { command('LREM', keys, { '0', args[1] }) }
  end,
  EXPIRE = function(keys, args)
    return { command('PEXPIRE', keys, args) }
  end,
  ['decr-ref'] = function(keys, args)
    return { command('HGET', keys, args), command('HINCRBY', keys, { args[1], '-1' }), command('HDEL', keys, args) }
  end,
}
local function read_deed()
  local deed = { verb = take() }
  deed.keys = list(number)
  deed.args = list(take)
  local spelling = spellings[deed.verb]
  deed.calls = spelling and spelling(deed.keys, deed.args) or { command(deed.verb, deed.keys, deed.args) }
  return deed
end
local function read_later()
  local when = read_when()
  local deed = read_deed()
  deed.when = when
  return deed
end
local function read_notice()
  local notice = { when = read_when() }
  notice.verb = take()
  notice.keys = list(number)
  notice.args = list(function()
    return list(take)
  end)
  -- For the check a count is as good as another.
  notice.calls = { spell(notice, 0, 'evicted') }
  notice.channel = (notice.verb == 'PUBLISH' or notice.verb == 'SPUBLISH') and notice.calls[1][2]
  for _, parts in ipairs(notice.args) do
    for _, part in ipairs(parts) do
      notice.counts = notice.counts or part == 'remaining'
    end
  end
  return notice
end
local COUNTS = { zset = 'ZCARD', hash = 'HLEN', set = 'SCARD' }
-- What a notice may have to ask about the container once the entry is out of it.
local function count_of(entry)
  for _, notice in ipairs(entry.notices) do
    if notice.counts then
      local verb = COUNTS[entry.type]
      return { verb = verb, keys = { entry.key }, calls = { command(verb, { entry.key }, {}) } }
    end
  end
  return nil
end
local function read_entry()
  local entry = { key = number() }
  entry.type = take()
  entry.member = take() == '1'
  entry.slots = list(number)
  entry.elsewhere = list(number)
  entry.lists = list(number)
  entry.unless = list(read_condition)
  entry.deeds = list(read_deed)
  entry.later = list(read_later)
  entry.notices = list(read_notice)
  entry.records = list(read_notice)
  entry.count = count_of(entry)
  return entry
end

local entries = list(read_entry)
local codes = {}
for i, entry in ipairs(entries) do
  codes[i] = judge(entry)
end

local going = 0
for _, code in ipairs(codes) do
  going = going + (code == EVICTED and 1 or 0)
end
if released then
  local found = redis.call('HMGET', KEYS[release], 'id', 'left')
  if found[1] ~= released or (tonumber(found[2]) or 0) < going then
    return { string.format('%.0f', now), EXHAUSTED }
  end
end

-- do: the first write comes after this line, and never before.

-- Counted here, two reapers together keep to what was released.
if released then
  redis.call('HINCRBY', KEYS[release], 'left', -going)
end

local function run(deed)
  local call = deed.calls[1]
  if deed.verb == 'decr-ref' then
    local found = redis.pcall(unpack(call))
    local count = type(found) == 'string' and integer(found)
    if not count then
      return fault_of(found)
    end
    call = deed.calls[count > 1 and 2 or 3]
  end
  return fault_of(redis.pcall(unpack(call)))
end

local function record(entry, outcome)
  for _, one in ipairs(entry.records) do
    if fault_of(redis.pcall(unpack(spell(one, 0, outcome)))) then
      return AUDIT
    end
  end
  return nil
end

-- Nothing here can fail after the checks; should it all the same before the entry's own removal, which comes last, that is
-- not reached, and the entry stays for the next look. A record comes first: without it nothing goes, and one that says too
-- much is followed by another.
local function evict(entry)
  local code = record(entry, 'evicted')
  if code then
    return { code }
  end
  local result = { EVICTED }
  for _, deed in ipairs(entry.deeds) do
    if run(deed) then
      record(entry, 'unknown')
      return { UNKNOWN }
    end
  end
  for i, deed in ipairs(entry.later) do
    local holds = not deed.when or ask(deed.when)
    if holds == false then
      result[#result + 1] = { i }
    elseif holds ~= true or run(deed) then
      result[1] = UNKNOWN
    end
  end
  if result[1] == UNKNOWN then
    record(entry, 'unknown')
  end
  return result
end

-- The entry is gone by now, so a notice that fails all the same (a stream that has used up its ids, a server that could
-- not be asked for permission) is told apart, and the others go out.
local function announce(entry, result)
  local remaining = entry.count and redis.pcall(unpack(entry.count.calls[1]))
  for i, notice in ipairs(entry.notices) do
    local holds = not notice.when or ask(notice.when)
    local words = holds == true and not (notice.counts and fault_of(remaining)) and spell(notice, remaining)
    if holds == false then
      result[#result + 1] = -i
    elseif words and notice.verb == 'TELL' then
      result[#result + 1] = { i, words[2] }
    elseif not words or fault_of(redis.pcall(unpack(words))) then
      result[#result + 1] = i
    end
  end
end

local reply = { string.format('%.0f', now) }
for i, entry in ipairs(entries) do
  reply[i + 1] = codes[i]
  if codes[i] == EVICTED then
    local result = evict(entry)
    if result[1] == EVICTED then
      announce(entry, result)
    end
    reply[i + 1] = #result == 1 and result[1] or result
  end
end
return reply
