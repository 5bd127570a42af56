-- Everything that is known of a run is gone. The bits are found as in expire.lua.
local rounds = KEYS[2]
local bits = ARGV[1]

for _, round in ipairs(redis.call('SMEMBERS', rounds)) do
  redis.call('DEL', bits .. round)
end
redis.call('DEL', unpack(KEYS))
return 1
