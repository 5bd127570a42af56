-- Only the attempt that holds the shard lets it go.
local holders, holding = unpack(KEYS)
local shard, attempt = unpack(ARGV)

local holder = redis.call('HGET', holders, shard)
if holder and cjson.decode(holder).attempt == attempt then
  drop(holders, holding, shard)
end
return 1
