-- Adds a session of a user; gives the time in microseconds and all the user's sessions with theirs.
-- KEYS user; ARGV session, incarnation and node, milliseconds to keep
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {now, redis.call('HGETALL', KEYS[1])}
