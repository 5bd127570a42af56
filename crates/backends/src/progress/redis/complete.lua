-- Every marker has been added.
local state, ends = unpack(KEYS)
local long = ARGV[1]

redis.call('HSET', state, 'complete', 1)
keep(ends, tonumber(long), { state })
return 1
