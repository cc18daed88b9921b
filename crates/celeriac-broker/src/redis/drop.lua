-- Removes messages from the dead list.
--
-- KEYS  1 entries, 2 bytes, 3 index
-- ARGV  their ids
-- Gives for each whether it was there.

local replies = {}
for place, id in ipairs(ARGV) do
  local there = redis.call('HDEL', KEYS[1], id) + redis.call('HDEL', KEYS[2], id) + redis.call('ZREM', KEYS[3], id)
  replies[place] = there > 0 and 1 or 0
end
return replies
