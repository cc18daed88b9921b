-- Counts bodies that are about to begin, by task.
--
-- KEYS  1 unacked
-- ARGV  1 how long a count is kept in ms, then for each delivery: tag, key of the task's count
-- Gives for each the count, or 0 when the claim was lost.

-- So that a server whose memory is full counts too: a delivery that cannot begin is never settled.
redis.call('HDEL', KEYS[1], '')

local counts = {}
for at = 2, #ARGV, 2 do
  local tag, key, count = ARGV[at], ARGV[at + 1], 0
  if redis.call('HEXISTS', KEYS[1], tag) == 1 then
    local known = redis.call('HMGET', key, 'count', 'tag')
    count = known[1] and tonumber(known[1]) or 1
    -- Asked again because the answer was lost, it is no other begin.
    if known[2] ~= tag then
      count = count + 1
      redis.call('HSET', key, 'count', count, 'tag', tag)
      redis.call('PEXPIRE', key, ARGV[1])
    end
  end
  counts[#counts + 1] = count
end
return counts
