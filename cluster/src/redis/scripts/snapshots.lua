-- Replaces snapshots: 1 done, 0 not the owner, -1 newer ones stand here (this save was late), or Redis has lost the
-- writer's claim, which the next append finds out.
-- KEYS own, snap; ARGV owner, epoch and number of the writer's top, then a lobby, '1' or '0', its snapshot, …
local own = redis.call('GET', KEYS[1])
if own ~= ARGV[1] then
  local present = own and tonumber(string.match(own, '^%d+'))
  if not present or present < tonumber(string.match(ARGV[1], '^%d+')) then return -1 end
  return 0
end
local epoch, n = tonumber(ARGV[2]), tonumber(ARGV[3])
local mark = redis.call('HGET', KEYS[2], '#')
if mark then
  local e, m = string.match(mark, '(%d+)-(%d+)')
  e, m = tonumber(e), tonumber(m)
  if e > epoch or (e == epoch and m > n) then return -1 end
end
for i = 4, #ARGV, 3 do
  if ARGV[i + 1] == '1' then
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 2])
  else
    redis.call('HDEL', KEYS[2], ARGV[i])
  end
end
redis.call('HSET', KEYS[2], '#', ARGV[2] .. '-' .. ARGV[3])
return 1
