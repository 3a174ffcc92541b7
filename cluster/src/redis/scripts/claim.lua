-- Replaces a shard's record if it is what the claimant expects ('' is none). Gives whether, and what stands there.
-- KEYS own; ARGV expected, new
local present = redis.call('GET', KEYS[1]) or ''
if present ~= ARGV[1] then return {0, present} end
redis.call('SET', KEYS[1], ARGV[2])
return {1, ARGV[2]}
