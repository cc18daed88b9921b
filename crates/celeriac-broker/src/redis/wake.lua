-- Runs in the same write as `BLMOVE list private RIGHT LEFT`, so right after it: claims what it moved and what
-- else the list has, as far as the consumer has credit, or puts it back where it came from.
--
-- KEYS  1 private list, 2 list, 3 unacked, 4 unacked index, 5 leases, 6 credits, 7 workers
-- ARGV  1 consumer, 2 prefix of the tags, 3 lease in ms, 4 the most bytes, 5 the queue's name as JSON text
-- Gives the messages, whose tags are prefix .. 1, …; or, when they were put back, how many.

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

local add, write = claims(KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], ARGV[2], ARGV[3])
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

add(ARGV[5], messages)
write()
return messages
