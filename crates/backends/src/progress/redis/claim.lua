-- Returns the attempt that may write an object: the one asked for, unless another one's time is not over.
local claims, ends = unpack(KEYS)
local what, attempt, ttl, long = unpack(ARGV)

local now = now_ms()
local claim = redis.call('HGET', claims, what)
if claim then
  local untils, other = string.match(claim, '^(%d+) (.*)$')
  if other ~= attempt and tonumber(untils) > now then
    return other
  end
end
redis.call('HSET', claims, what, whole(now + ttl) .. ' ' .. attempt)
keep(ends, tonumber(long), { claims })
return attempt
