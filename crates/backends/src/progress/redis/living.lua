-- What was put and renewed in time: name, text, name, text …
local texts, untils = unpack(KEYS)

local living = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', untils, '(' .. whole(now_ms()), '+inf')) do
  local text = redis.call('HGET', texts, name)
  if text then
    living[#living + 1] = name
    living[#living + 1] = text
  end
end
return living
