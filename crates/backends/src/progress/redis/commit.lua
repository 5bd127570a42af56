-- Bit 0 -> 1, and only then: counts, throughput, the holder gone, failures listed (the newest first, and no more of
-- them than the cap). Returns 1 where the bit was 0.
local state, throughput, holders, holding, failures, ends = unpack(KEYS)
local index, round, shard, shards, done, failed, retrying, accepted, kept, tries, seconds, intervals, cap, long = unpack(ARGV)

if not set_bit(state, round, tonumber(index)) then
  return 0
end
add_counts(state, shards, done, failed, retrying, accepted, kept, tries)
if tonumber(done) > 0 then
  local now = math.floor(now_ms() / 1000)
  redis.call('HINCRBY', throughput, whole(now - now % seconds), done)
  if redis.call('HLEN', throughput) > tonumber(intervals) then
    local at = redis.call('HKEYS', throughput)
    table.sort(at, function(a, b) return tonumber(a) < tonumber(b) end)
    for i = 1, #at - intervals do
      redis.call('HDEL', throughput, at[i])
    end
  end
end
for i = 15, #ARGV do
  redis.call('LPUSH', failures, ARGV[i])
end
redis.call('LTRIM', failures, 0, tonumber(cap) - 1)
drop(holders, holding, shard)
keep(ends, tonumber(long), { state, throughput, holders, holding, failures })
return 1
