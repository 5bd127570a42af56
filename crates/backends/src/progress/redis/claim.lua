-- Returns the attempt that may write the shard's marker: the one asked for, unless another one's time is not over.
local claims, ends = unpack(KEYS)
local shard, attempt, ttl, long = unpack(ARGV)

local now = now_ms()
local claim = redis.call('HGET', claims, shard)
if claim then
  local untils, other = string.match(claim, '^(%d+) (.*)$')
  if other ~= attempt and tonumber(untils) > now then
    return other
  end
end
redis.call('HSET', claims, shard, whole(now + ttl) .. ' ' .. attempt)
keep(ends, tonumber(long), { claims })
return attempt
