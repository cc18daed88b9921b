-- Takes, keeps or gives up a turn.
--
-- KEYS  1 the turn
-- ARGV  1 consumer, 2 for how many ms; 0 gives it up
-- Gives 1 when it is the consumer's.

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
