-- How far a run's log is; what is behind that which is known changes nothing.
local head, ends = unpack(KEYS)
local decisions, text, long = unpack(ARGV)

local known = redis.call('HGET', head, 'decisions')
if known and tonumber(known) > tonumber(decisions) then
  return 0
end
redis.call('HSET', head, 'decisions', decisions, 'head', text)
keep(ends, tonumber(long), { head })
return 1
