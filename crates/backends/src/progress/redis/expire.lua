-- Sets the end of everything that is known of a run, and of what late commands may add. `ends` itself ends then too, so
-- a run that is rebuilt later begins a life of its own. The bits of a round are found through the set of rounds: their
-- keys are not declared, but have the run's hash tag and so its slot.
local ends, rounds = KEYS[1], KEYS[2]
local after, bits = tonumber(ARGV[1]), ARGV[2]

local at = whole(now_ms() + after)
redis.call('SET', ends, at)
for _, round in ipairs(redis.call('SMEMBERS', rounds)) do
  redis.call('PEXPIREAT', bits .. round, at)
end
for _, key in ipairs(KEYS) do
  redis.call('PEXPIREAT', key, at)
end
return 1
