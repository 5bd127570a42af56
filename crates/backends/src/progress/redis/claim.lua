-- Returns the attempt that may write an object: the one asked for, unless another one's time is not over.
local claim = KEYS[1]
local attempt, ttl = unpack(ARGV)

local other = redis.call('GET', claim)
if other and other ~= attempt then
  return other
end
redis.call('SET', claim, attempt, 'PX', ttl)
return attempt
