-- Appends a batch whole, or not at all: 1 taken (now or by an earlier try), 0 not the owner, -1 Redis has lost what
-- the writer knows: its claim, or the end of the log.
-- KEYS own, log; ARGV owner, expected top, top afterwards, epoch, first number, entry…
local own = redis.call('GET', KEYS[1])
if own ~= ARGV[1] then
  local present = own and tonumber(string.match(own, '^%d+'))
  if not present or present < tonumber(string.match(ARGV[1], '^%d+')) then return -1 end
  return 0
end
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
local top = newest[1] and newest[1][1] or '0-0'
if top ~= ARGV[2] then
  if #ARGV > 5 and top == ARGV[3] then return 1 end
  local e, n = string.match(top, '(%d+)-(%d+)')
  local we, wn = string.match(ARGV[2], '(%d+)-(%d+)')
  e, n, we, wn = tonumber(e), tonumber(n), tonumber(we), tonumber(wn)
  if e < we or (e == we and n < wn) then return -1 end
  return 0
end
for i = 6, #ARGV do
  redis.call('XADD', KEYS[2], ARGV[4] .. '-' .. string.format('%.0f', ARGV[5] + i - 6), 'e', ARGV[i])
end
return 1
