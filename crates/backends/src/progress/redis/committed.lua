-- The bits of a round, as one string.
local state = KEYS[1]
local round = ARGV[1]

local prefix = 'bits:' .. round .. ':'
local last = -1
for _, field in ipairs(redis.call('HKEYS', state)) do
  if field:sub(1, #prefix) == prefix then
    last = math.max(last, tonumber(field:sub(#prefix + 1)))
  end
end
local chunks = {}
for at = 0, last do
  local chunk = redis.call('HGET', state, prefix .. whole(at)) or ''
  chunks[#chunks + 1] = at < last and chunk .. string.rep('\0', CHUNK / 8 - #chunk) or chunk
end
return table.concat(chunks)
