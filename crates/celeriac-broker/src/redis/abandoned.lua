-- Empties the private lists of consumers that gave no sign of life, and of one by name.
--
-- What lies there was moved by a BLMOVE whose script did not come to run; nobody has seen it. A consumer that was only
-- slow finds nothing there when it comes back, and waits again.
--
-- KEYS  1 workers, 2 credits
-- ARGV  1 prefix of the private lists, 2 a consumer or '', 3 seconds until one counts as dead, 4 seconds until it is
--       forgotten: longer than a BLMOVE can wait, since the server may still move a message for it
-- Gives how many messages were put back.

-- So that a server whose memory is full moves them too.
redis.call('ZREM', KEYS[1], '')

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local dead = {ARGV[2]}
if ARGV[2] == '' then
  dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.3f', now - ARGV[3]))
end
local moved = 0
for _, consumer in ipairs(dead) do
  local set = ARGV[1] .. consumer
  for _, list in ipairs(redis.call('SMEMBERS', set)) do
    local private = set .. ':' .. list
    while redis.call('LMOVE', private, list, 'LEFT', 'RIGHT') do
      moved = moved + 1
    end
  end
  redis.call('HDEL', KEYS[2], consumer)
  local seen = tonumber(redis.call('ZSCORE', KEYS[1], consumer) or '0')
  if seen < now - ARGV[4] then
    redis.call('ZREM', KEYS[1], consumer)
    redis.call('DEL', set)
  end
end
return moved
