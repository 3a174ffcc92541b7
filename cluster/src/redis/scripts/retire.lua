-- Ends a lease, if it is still this incarnation's.
-- KEYS node; ARGV incarnation
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, #ARGV[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
