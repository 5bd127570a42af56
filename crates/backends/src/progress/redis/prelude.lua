-- Put before every script. Each script touches the keys of one hash slot and takes its time from the server, whose
-- clock is the only one that all workers and coordinators share.

-- Milliseconds since 1970.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Whole numbers as Redis reads them: never 1.7e+12.
local function whole(number)
  return string.format('%.0f', number)
end

-- Gives the keys of a run their life: to the end that `expire` has set, else `long` milliseconds. Renewed only when a
-- tenth of it is gone, so that the append-only file does not grow by an expiry with every command.
local function keep(ends, long, keys)
  local at = redis.call('GET', ends)
  for _, key in ipairs(keys) do
    if at then
      redis.call('PEXPIREAT', key, at)
    elseif redis.call('PTTL', key) < long * 0.9 then
      redis.call('PEXPIRE', key, long)
    end
  end
end

-- Entries that are forgotten when they are not renewed: their texts in a hash, their ends in a sorted set.
local function drop(texts, untils, name)
  redis.call('HDEL', texts, name)
  redis.call('ZREM', untils, name)
end

local function put(texts, untils, name, text, ttl)
  local now = now_ms()
  for _, silent in ipairs(redis.call('ZRANGEBYSCORE', untils, '-inf', whole(now))) do
    drop(texts, untils, silent)
  end
  redis.call('HSET', texts, name, text)
  redis.call('ZADD', untils, whole(now + ttl), name)
end
