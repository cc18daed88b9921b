-- Claims up to a number of messages from several queues, or leaves a credit for whoever waits.
--
-- KEYS  1 unacked, 2 unacked index, 3 leases, 4 credits, 5 workers, 6… the lists: every queue at the first priority step,
--       then every queue at the second, …
-- ARGV  1 consumer, 2 prefix of the tags, 3 lease in ms, 4 the most, 5 how many of them could begin at once; when
--       not above zero nobody is let claim later, 6 the most bytes,
--       7 '1' to share between queues, 8 number of queues, 9… the queues' names as JSON texts
-- Gives {offset of the list in KEYS from 6, {messages}, …}; the n-th message got the tag prefix .. n.

local most, slots, bytes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local fair, queues = ARGV[7] == '1', tonumber(ARGV[8])
local add, write = claims(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], ARGV[2], ARGV[3])
local workers = redis.call('ZCARD', KEYS[5])
local given, taken, allowed, failure = {}, 0, {}, nil

for first = 6, #KEYS, queues do
  local open = {}
  for place = first, first + queues - 1 do
    open[#open + 1] = place
  end
  while #open > 0 and taken < most and bytes > 0 do
    local share = most - taken
    if fair then
      share = math.ceil(share / #open)
    end
    local rest = {}
    for _, place in ipairs(open) do
      if taken == most or bytes <= 0 then
        break
      end
      if not allowed[place] then
        local length, wrong = length_of(KEYS[place])
        -- A key that is no list. What was popped from others must be recorded all the same.
        failure = wrong or failure
        allowed[place] = portion(length, most - taken, slots - taken, workers)
      end
      local wanted = math.min(share, most - taken, allowed[place])
      if wanted > 0 then
        local got = {}
        bytes = pop(KEYS[place], wanted, bytes, got)
        allowed[place] = allowed[place] - #got
        taken = add(ARGV[9 + (place - 6) % queues], got)
        given[#given + 1] = place - 6
        given[#given + 1] = got
        if #got == wanted and allowed[place] > 0 then
          rest[#rest + 1] = place
        end
      end
    end
    open = rest
  end
  if taken >= most or bytes <= 0 then
    break
  end
end
write()

if taken == 0 and failure then
  return failure
elseif taken == 0 and slots > 0 then
  redis.call('HSET', KEYS[4], ARGV[1], most .. ':' .. slots)
else
  redis.call('HDEL', KEYS[4], ARGV[1])
end
return given
