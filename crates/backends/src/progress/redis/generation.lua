-- The generation of a run's counts; the one that is offered where they have none.
local state, ends = unpack(KEYS)
local offered, long = unpack(ARGV)

redis.call('HSETNX', state, 'generation', offered)
keep(ends, tonumber(long), { state })
return redis.call('HGET', state, 'generation')
