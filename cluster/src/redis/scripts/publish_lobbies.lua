-- Replaces or removes lines of a node's list of lobbies. A member is the id, a zero byte, the line.
-- KEYS lobbies; ARGV milliseconds to keep, then a lobby, its line ('' removes it), …
for i = 2, #ARGV, 2 do
  redis.call('ZREMRANGEBYLEX', KEYS[1], '[' .. ARGV[i] .. '\0', '(' .. ARGV[i] .. '\1')
  if ARGV[i + 1] ~= '' then redis.call('ZADD', KEYS[1], 0, ARGV[i] .. '\0' .. ARGV[i + 1]) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
