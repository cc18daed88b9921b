-- A sign of life of a consumer, and the question whether it is its turn to look for what others left.
--
-- KEYS  1 workers, 2 its set of lists, 3 turn for leases, 4 turn for kombu's claims
-- ARGV  1 consumer, 2 ms between two turns, 3 ms between two turns for kombu's, 4… the lists it waits on;
--       0 ms does not ask for a turn
-- Gives {1 when it is its turn, 1 when it is its turn for kombu's}.

redis.call('ZADD', KEYS[1], redis.call('TIME')[1], ARGV[1])
if #ARGV > 3 then
  redis.call('SADD', KEYS[2], unpack(ARGV, 4))
end
-- Taking turns is only thrift: restoring is safe at any number of restorers. A holder that dies delays one turn.
local function turn(key, ms)
  return ms ~= '0' and redis.call('SET', key, ARGV[1], 'NX', 'PX', ms) and 1 or 0
end
return {turn(KEYS[3], ARGV[2]), turn(KEYS[4], ARGV[3])}
