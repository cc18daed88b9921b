-- Runs in the same write as `BLMOVE bell private RIGHT LEFT`, so right after it: claims from the lists that the bell named,
-- as far as the consumer has credit. What it cannot take it passes on to whoever waits next.
--
-- KEYS  1 private list, 2 bell, 3 unacked, 4 unacked index, 5 leases, 6 credits, 7 workers
-- ARGV  1 consumer, 2 prefix of the tags, 3 lease in ms, 4 the most bytes
-- Gives {list, {messages}, …}, where the n-th message got the tag prefix .. n; or, without credit, how often it was rung.

redis.call('HLEN', KEYS[3])
redis.call('ZCARD', KEYS[4])
redis.call('ZCARD', KEYS[5])

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

local time = redis.call('TIME')
local expiry = string.format('%.3f', time[1] + time[2] / 1000000 + ARGV[3] / 1000)
local given, taken, bytes = {}, 0, tonumber(ARGV[4])
while true do
  local token = redis.call('RPOP', KEYS[1])
  if not token then
    break
  end
  -- The queue's name as JSON text, which has no line break, and the list.
  local line = string.find(token, '\n', 1, true)
  local queue, list = string.sub(token, 1, line - 1), string.sub(token, line + 1)
  local messages, length = {}, length_of(list)
  if length > 0 then
    local wanted = portion(length, credit - taken, slots - taken, redis.call('ZCARD', KEYS[7]))
    bytes = pop(list, wanted, bytes, messages)
  end
  for first = 1, #messages, 500 do
    local records, scores = {}, {}
    for place = first, math.min(first + 499, #messages) do
      taken = taken + 1
      local tag = ARGV[2] .. taken
      if may_be_message(messages[place]) then
        records[#records + 1] = tag
        records[#records + 1] = '[' .. messages[place] .. ', "", ' .. queue .. ']'
        scores[#scores + 1] = expiry
        scores[#scores + 1] = tag
      else
        put_aside(KEYS[5], tag, queue, messages[place], time)
      end
    end
    if #records > 0 then
      redis.call('HSET', KEYS[3], unpack(records))
      redis.call('ZADD', KEYS[4], unpack(scores))
      redis.call('ZADD', KEYS[5], unpack(scores))
    end
  end
  if #messages > 0 then
    given[#given + 1] = list
    given[#given + 1] = messages
  end
  if #messages < length then
    redis.call('RPUSH', KEYS[2], token)
  end
end
if taken > 0 then
  redis.call('HDEL', KEYS[6], ARGV[1])
end
return given
