-- Taken where it is free, renewed where it is the owner's. Returns whether the owner has it.
local lease = KEYS[1]
local owner, ttl = unpack(ARGV)

local holder = redis.call('GET', lease)
if holder and holder ~= owner then
  return 0
end
redis.call('SET', lease, owner, 'PX', ttl)
return 1
