-- Forgets entries up to and including one; the newest stays, because it is the top that appends are checked against.
-- KEYS log; ARGV epoch, number
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if not newest[1] then return 0 end
local e, n = string.match(newest[1][1], '(%d+)-(%d+)')
e, n = tonumber(e), tonumber(n)
local epoch, number = tonumber(ARGV[1]), tonumber(ARGV[2])
if epoch > e or (epoch == e and number >= n) then
  return redis.call('XTRIM', KEYS[1], 'MINID', newest[1][1])
end
return redis.call('XTRIM', KEYS[1], 'MINID', ARGV[1] .. '-' .. string.format('%.0f', number + 1))
