-- A sign of life of a consumer, and the question whether it is its turn to look for what others left.
--
-- KEYS  1 workers, 2 its set of lists, 3 turn for leases, 4 turn for kombu's claims, 5 there while nobody gets a turn for leases
-- ARGV  1 consumer, 2 ms between two turns, 3 ms between two turns for kombu's, 4 ms that the others get to renew what they
--       hold if they could not reach the server, 5 s without a sign of life of theirs after which that is assumed, 6… the lists
--       it waits on; 0 ms does not ask for a turn, or for time for the others
-- Gives {1 when it is its turn, 1 when it is its turn for kombu's}.

-- So that a server whose memory is full takes the sign of life: what there is can be put back all the same.
redis.call('ZREM', KEYS[1], '')

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
if ARGV[4] ~= '0' then
  local newest = redis.call('ZREVRANGE', KEYS[1], 0, 1, 'WITHSCORES')
  local other = newest[1] == ARGV[1] and 3 or 1
  -- Here and not with us, since whoever comes after us finds our sign of life.
  if newest[other] and now - newest[other + 1] >= tonumber(ARGV[5]) then
    redis.call('SET', KEYS[5], ARGV[1], 'PX', ARGV[4])
  end
end
redis.call('ZADD', KEYS[1], string.format('%.3f', now), ARGV[1])
if #ARGV > 5 then
  redis.call('SADD', KEYS[2], unpack(ARGV, 6))
end
-- Taking turns is only thrift: restoring is safe at any number of restorers. A holder that dies delays one turn.
local function turn(key, ms)
  return ms ~= '0' and redis.call('SET', key, ARGV[1], 'NX', 'PX', ms) and 1 or 0
end
local ours = redis.call('EXISTS', KEYS[5]) == 0 and turn(KEYS[3], ARGV[2]) or 0
return {ours, turn(KEYS[4], ARGV[3])}
