-- Every marker has been added to this generation, so many of them; unless some were lost meanwhile.
local state, ends = unpack(KEYS)
local generation, shards, long = unpack(ARGV)

if redis.call('HGET', state, 'generation') ~= generation then
  return 0
end
if tonumber(redis.call('HGET', state, 'shards') or 0) < tonumber(shards) then
  return 0
end
redis.call('HSET', state, 'complete', 1)
keep(ends, tonumber(long), { state })
return 1
