-- The newest first, and no more of them than the cap.
local failures, ends = unpack(KEYS)
local cap, long = tonumber(ARGV[1]), tonumber(ARGV[2])

for i = 3, #ARGV do
  redis.call('LPUSH', failures, ARGV[i])
end
redis.call('LTRIM', failures, 0, cap - 1)
keep(ends, long, { failures })
return 1
