-- The holder of one shard, where it was renewed in time; else nothing.
local holders, holding = unpack(KEYS)
local shard = ARGV[1]

local known_until = redis.call('ZSCORE', holding, shard)
if known_until and tonumber(known_until) > now_ms() then
  return redis.call('HGET', holders, shard)
end
return false
