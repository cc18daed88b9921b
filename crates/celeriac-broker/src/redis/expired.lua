-- Lists claims whose time is over.
--
-- KEYS  1 unacked, 2 unacked index, 3 leases
-- ARGV  1 'ours' by lease, 'kombu' by age, 2 the age in seconds, 3 the most
-- Gives {tag, record, …}, oldest first.

local now = redis.call('TIME')
local limit = now[1] + now[2] / 1000000
local index = KEYS[3]
if ARGV[1] == 'kombu' then
  limit = limit - ARGV[2]
  index = KEYS[2]
end
local given = {}
for _, tag in ipairs(redis.call('ZRANGEBYSCORE', index, '-inf', string.format('%.3f', limit), 'LIMIT', 0, ARGV[3])) do
  if index == KEYS[3] or not redis.call('ZSCORE', KEYS[3], tag) then
    local record = redis.call('HGET', KEYS[1], tag)
    if record then
      given[#given + 1] = tag
      given[#given + 1] = record
    else
      redis.call('ZREM', index, tag)
    end
  end
end
return given
