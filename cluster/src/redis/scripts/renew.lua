-- Takes or renews a lease, unless a newer process holds it. Incarnations have a fixed width.
-- KEYS node; ARGV incarnation, record, milliseconds
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, #ARGV[1]) > ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[3])
return 1
