-- Renews leases. XX: a claim that was lost is not brought back.
--
-- KEYS  1 unacked index, 2 leases
-- ARGV  1 lease in ms, 2… at most 1000 tags

local time = redis.call('TIME')
local expiry = string.format('%.3f', time[1] + time[2] / 1000000 + ARGV[1] / 1000)
local scores = {}
for place = 2, #ARGV do
  scores[#scores + 1] = expiry
  scores[#scores + 1] = ARGV[place]
end
redis.call('ZADD', KEYS[1], 'XX', unpack(scores))
redis.call('ZADD', KEYS[2], 'XX', unpack(scores))
