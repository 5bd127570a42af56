-- Sets the end of everything that is known of a run, and of what late commands may add. `ends` itself ends then too, so
-- a run that is rebuilt later begins a life of its own.
local ends = KEYS[1]
local after = tonumber(ARGV[1])

local at = whole(now_ms() + after)
redis.call('SET', ends, at)
for _, key in ipairs(KEYS) do
  redis.call('PEXPIREAT', key, at)
end
return 1
