-- For each shard: bit 0 -> 1, and only then its counts and its holder gone.
local state, holders, holding, ends = unpack(KEYS)
local long = ARGV[1]

for at = 2, #ARGV, 10 do
  local index, round, shard, shards, done, failed, retrying, accepted, kept, tries = unpack(ARGV, at, at + 9)
  if set_bit(state, round, tonumber(index)) then
    add_counts(state, shards, done, failed, retrying, accepted, kept, tries)
    drop(holders, holding, shard)
  end
end
keep(ends, tonumber(long), { state, holders, holding })
return 1
