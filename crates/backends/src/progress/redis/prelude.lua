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

-- The bits of a run's shards are fields of the hash that holds its counts, 8192 shards each, the first one in the highest
-- bit of the first byte: whatever a server forgets, it forgets bits and counts together.
local CHUNK = 8192

local function bit_at(state, round, index)
  local field = 'bits:' .. round .. ':' .. whole(math.floor(index / CHUNK))
  local chunk = redis.call('HGET', state, field) or ''
  local at = index % CHUNK
  local byte, mask = math.floor(at / 8) + 1, 2 ^ (7 - at % 8)
  local value = string.byte(chunk, byte) or 0
  return math.floor(value / mask) % 2 == 1, field, chunk, byte, value + mask
end

-- Sets the shard's bit; whether it was 0.
local function set_bit(state, round, index)
  local is_set, field, chunk, byte, value = bit_at(state, round, index)
  if is_set then
    return false
  end
  chunk = chunk .. string.rep('\0', byte - #chunk)
  redis.call('HSET', state, field, chunk:sub(1, byte - 1) .. string.char(value) .. chunk:sub(byte + 1))
  return true
end

local function add_counts(state, shards, done, failed, retrying, accepted, kept, tries)
  redis.call('HINCRBY', state, 'shards', shards)
  redis.call('HINCRBY', state, 'done', done)
  redis.call('HINCRBY', state, 'failed', failed)
  redis.call('HINCRBY', state, 'retrying', retrying)
  redis.call('HINCRBY', state, 'accepted', accepted)
  redis.call('HINCRBY', state, 'kept', kept)
  redis.call('HINCRBY', state, 'tries', tries)
end
