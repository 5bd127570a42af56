-- The server's time in seconds, and pictures by interval.
return { math.floor(now_ms() / 1000), redis.call('HGETALL', KEYS[1]) }
