-- Ends a lease, if it is still this incarnation's. What is left says for a while that it was ended, not run out.
-- KEYS node; ARGV incarnation, milliseconds
local held = redis.call('GET', KEYS[1])
if not held or string.sub(held, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. ' retired', 'PX', ARGV[2])
return 1
