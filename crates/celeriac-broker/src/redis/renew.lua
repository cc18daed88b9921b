-- Renews leases, and tells what was lost.
--
-- KEYS  1 unacked, 2 unacked index, 3 leases
-- ARGV  1 lease in ms, 2… at most 1000 tags
-- Gives the places of the claims that somebody else has taken, counted from 0.

-- A server whose memory is full refuses what may need more, unless the script has written before. A lease has to be renewed
-- all the same, and it needs no more than it had.
redis.call('ZREM', KEYS[3], '')

local time = redis.call('TIME')
local expiry = string.format('%.3f', time[1] + time[2] / 1000000 + ARGV[1] / 1000)
local scores = {}
for place = 2, #ARGV do
  scores[#scores + 1] = expiry
  scores[#scores + 1] = ARGV[place]
end
local claims, lost = #ARGV - 1, {}
-- Whoever takes a claim takes it out of the first of them, in the same step: kombu, or one of ours.
local indexed = redis.call('ZADD', KEYS[2], 'XX', 'CH', unpack(scores))
local leased = redis.call('ZADD', KEYS[3], 'XX', 'CH', unpack(scores))
if indexed == claims and leased == claims then
  return lost
end
for place = 2, #ARGV do
  local tag = ARGV[place]
  if redis.call('HEXISTS', KEYS[1], tag) == 1 then
    -- Not lost, whatever became of the index: a tag is used once, and nobody else can settle it.
    redis.call('ZADD', KEYS[2], expiry, tag)
    redis.call('ZADD', KEYS[3], expiry, tag)
  else
    redis.call('ZREM', KEYS[2], tag)
    redis.call('ZREM', KEYS[3], tag)
    lost[#lost + 1] = place - 2
  end
end
return lost
