-- Refused once the shard is committed: a late sign of life must not bring a finished shard back. Returns 1 where kept.
local state, holders, holding, ends = unpack(KEYS)
local index, round, shard, holder, ttl, long = unpack(ARGV)

if bit_at(state, round, tonumber(index)) then
  return 0
end
put(holders, holding, shard, holder, tonumber(ttl))
keep(ends, tonumber(long), { holders, holding })
return 1
