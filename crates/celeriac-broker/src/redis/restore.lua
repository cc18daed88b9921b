-- Puts expired claims back, each only if it is still there and still expired: between the listing and this its
-- holder may have renewed or settled it, and another restorer may have been faster.
--
-- KEYS  1 unacked, 2 unacked index, 3 leases, 4 to 7 the dead list (see bury.lua)
-- ARGV  1 'ours' | 'kombu', 2 the age in seconds, then for each: tag, number of lists, {list, message}…,
--       and for 0 lists: entry of the dead list, milliseconds since 1970, first and last place of the message in the record
-- Gives how many, and the tags of those that went to the dead list.

-- So that a server whose memory is full lets us move what is there already.
redis.call('ZREM', KEYS[3], '')

local now = redis.call('TIME')
local limit, index = now[1] + now[2] / 1000000, KEYS[3]
if ARGV[1] == 'kombu' then
  limit, index = limit - ARGV[2], KEYS[2]
end
local at, restored, buried = 2, 0, {}
local function take()
  at = at + 1
  return ARGV[at]
end
while at < #ARGV do
  local tag, lists = take(), tonumber(take())
  local score = tonumber(redis.call('ZSCORE', index, tag) or 'inf')
  local due, failed = score <= limit and redis.call('HEXISTS', KEYS[1], tag) == 1, false
  for _ = 1, lists do
    local list, message = take(), take()
    if due and not failed then
      local reply = redis.pcall('RPUSH', list, message)
      failed = type(reply) == 'table' and reply.err ~= nil
    end
  end
  if lists == 0 then
    local entry, moment, first, last = take(), take(), take(), take()
    if due then
      local raw = string.sub(redis.call('HGET', KEYS[1], tag), first, last)
      bury(KEYS[4], KEYS[5], KEYS[6], KEYS[7], entry, raw, moment)
      buried[#buried + 1] = tag
    end
  end
  if due and not failed then
    redis.call('HDEL', KEYS[1], tag)
    redis.call('ZREM', KEYS[2], tag)
    redis.call('ZREM', KEYS[3], tag)
    restored = restored + 1
  end
end
return {restored, buried}
