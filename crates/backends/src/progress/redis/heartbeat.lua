-- A worker's sign of life.
local beats, seen = unpack(KEYS)
local worker, heartbeat, ttl, long = unpack(ARGV)

put(beats, seen, worker, heartbeat, tonumber(ttl))
redis.call('PEXPIRE', beats, long)
redis.call('PEXPIRE', seen, long)
return 1
