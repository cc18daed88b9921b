-- Lists claims whose time is over.
--
-- KEYS  1 unacked, 2 unacked index, 3 leases
-- ARGV  1 'ours' by lease, 'kombu' by age, 2 the age in seconds, 3 the most claims, 4 the most bytes,
--       5 the most entries of the index that are looked at, 6 how many of the oldest are passed over
-- Gives {1 when there may be more, how many of the oldest were passed over because they have a lease, tag, record, …}, oldest
-- first.

local now = redis.call('TIME')
local limit = now[1] + now[2] / 1000000
local index = KEYS[3]
if ARGV[1] == 'kombu' then
  limit = limit - ARGV[2]
  index = KEYS[2]
end
limit = string.format('%.3f', limit)
local most, bytes, looks = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local given, offset = {0, tonumber(ARGV[6])}, tonumber(ARGV[6])
while true do
  local tags = redis.call('ZRANGEBYSCORE', index, '-inf', limit, 'LIMIT', offset, most)
  for _, tag in ipairs(tags) do
    if bytes <= 0 or #given > 2 * most + 1 then
      given[1] = 1
      return given
    end
    if index == KEYS[3] or not redis.call('ZSCORE', KEYS[3], tag) then
      local record = redis.call('HGET', KEYS[1], tag)
      if record then
        given[#given + 1] = tag
        given[#given + 1] = record
        bytes = bytes - #record
        offset = offset + 1
      else
        -- kombu took it, and knows nothing of leases.
        redis.call('ZREM', index, tag)
      end
    else
      offset = offset + 1
      given[2] = given[2] + 1
    end
  end
  looks = looks - #tags
  if #tags < most then
    return given
  end
  if looks <= 0 then
    given[1] = 1
    return given
  end
end
