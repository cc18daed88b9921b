-- Runs in the same write as `BLMOVE list private RIGHT LEFT`, so right after it: claims what it moved and what
-- else the list has, as far as the consumer has credit, or puts it back where it came from.
--
-- KEYS  1 private list, 2 list, 3 unacked, 4 unacked index, 5 leases, 6 credits, 7 workers
-- ARGV  1 consumer, 2 prefix of the tags, 3 lease in ms, 4 the most bytes, 5 the queue's name as JSON text
-- Gives the messages, whose tags are prefix .. 1, …; or, when they were put back, how many.

redis.call('HLEN', KEYS[3])
redis.call('ZCARD', KEYS[4])
redis.call('ZCARD', KEYS[5])

local moved = redis.call('LLEN', KEYS[1])
if moved == 0 then
  return {}
end
local credit, slots = credit_of(KEYS[6], ARGV[1])
-- The head is the newest: moved one by one, the oldest comes last and so is consumed first.
local keep = math.min(credit, moved)
for _ = 1, moved - keep do
  redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT')
end
if keep == 0 then
  return moved
end

local messages = redis.call('RPOP', KEYS[1], keep)
if credit > moved then
  local bytes = tonumber(ARGV[4])
  for _, raw in ipairs(messages) do
    bytes = bytes - #raw
  end
  local length = length_of(KEYS[2])
  local wanted = portion(length + moved, credit, slots, redis.call('ZCARD', KEYS[7])) - moved
  pop(KEYS[2], math.min(wanted, length), bytes, messages)
end
redis.call('HDEL', KEYS[6], ARGV[1])

local time = redis.call('TIME')
local expiry = string.format('%.3f', time[1] + time[2] / 1000000 + ARGV[3] / 1000)
local queue = ', "", ' .. ARGV[5] .. ']'
for first = 1, #messages, 500 do
  local records, scores = {}, {}
  for place = first, math.min(first + 499, #messages) do
    local tag = ARGV[2] .. place
    if may_be_message(messages[place]) then
      records[#records + 1] = tag
      records[#records + 1] = '[' .. messages[place] .. queue
      scores[#scores + 1] = expiry
      scores[#scores + 1] = tag
    else
      put_aside(KEYS[5], tag, ARGV[5], messages[place], time)
    end
  end
  if #records > 0 then
    redis.call('HSET', KEYS[3], unpack(records))
    redis.call('ZADD', KEYS[4], unpack(scores))
    redis.call('ZADD', KEYS[5], unpack(scores))
  end
end
return messages
