-- Asks for each of a list of calls whether the user that runs this may make it. Reads nothing and writes nothing.
--
-- ARGV   for each call: the number of its words, then the words
--
-- Returns for each call 1 (may), 0 (may not) or 2 (the server knows no such call); nil where scripts can't ask, as
-- before Redis 7.

if not redis.acl_check_cmd then
  return false
end

local answers = {}
local at = 1
while at <= #ARGV do
  local last = at + tonumber(ARGV[at])
  local known, may = pcall(redis.acl_check_cmd, unpack(ARGV, at + 1, last))
  answers[#answers + 1] = known and (may and 1 or 0) or 2
  at = last + 1
end
return answers
