-- Appends a batch whole, or not at all: 1 taken (now or by an earlier try), 0 not the owner, -1 not the top.
-- KEYS own, log; ARGV owner, expected top, top afterwards, epoch, first number, entry…
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
local top = newest[1] and newest[1][1] or '0-0'
if top ~= ARGV[2] then
  if #ARGV > 5 and top == ARGV[3] then return 1 end
  return -1
end
for i = 6, #ARGV do
  redis.call('XADD', KEYS[2], ARGV[4] .. '-' .. string.format('%.0f', ARGV[5] + i - 6), 'e', ARGV[i])
end
return 1
