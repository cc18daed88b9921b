-- Runs in the same write as `BLMOVE bell private RIGHT LEFT`, so right after it: claims from the lists that the bell named,
-- as far as the consumer has credit. What it cannot take it passes on to whoever waits next.
--
-- KEYS  1 private list, 2 bell, 3 unacked, 4 unacked index, 5 leases, 6 credits, 7 workers
-- ARGV  1 consumer, 2 prefix of the tags, 3 lease in ms, 4 the most bytes
-- Gives {list, {messages}, …}, where the n-th message got the tag prefix .. n; or, without credit, how often it was rung.

local rung = redis.call('LLEN', KEYS[1])
if rung == 0 then
  return {}
end
local credit, slots = credit_of(KEYS[6], ARGV[1])
if credit == 0 then
  while redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT') do
  end
  return rung
end

local add, write = claims(KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], ARGV[2], ARGV[3])
redis.call('LLEN', KEYS[2])
local workers = redis.call('ZCARD', KEYS[7])
local given, taken, bytes = {}, 0, tonumber(ARGV[4])
while true do
  local token = redis.call('RPOP', KEYS[1])
  if not token then
    break
  end
  -- The queue's name as JSON text, which has no line break, and the list.
  local queue, list = string.match(token, '^([^\n]*)\n(.*)$')
  -- What is no such token is nobody's: an error here would lose what was popped before.
  local messages, length = {}, list and length_of(list) or 0
  if length > 0 then
    bytes = pop(list, portion(length, credit - taken, slots - taken, workers), bytes, messages)
  end
  if #messages > 0 then
    taken = add(queue, messages)
    given[#given + 1] = list
    given[#given + 1] = messages
  end
  if #messages < length then
    redis.call('RPUSH', KEYS[2], token)
  end
end
write()
if taken > 0 then
  redis.call('HDEL', KEYS[6], ARGV[1])
end
return given
