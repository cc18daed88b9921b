-- Goes before the scripts that claim.

-- How many messages to take from a list of this length. Of a deep one as many as may be held: that is what makes a claim
-- cheap. Of a shallow one what can begin at once, since somebody else may be able to begin the others. Where `slots` is below
-- zero, so many wait here already. Python's workers are not known; they count as one.
local function portion(length, most, slots, workers)
  local ahead = math.floor(length / (2 * (workers + 1))) + math.min(slots, 0)
  return math.max(0, math.min(length, most, math.max(slots, ahead)))
end

-- Pops so many messages, the oldest first, into `messages`, or fewer when they have so many bytes. Gives what is left of the bytes.
local function pop(list, wanted, bytes, messages)
  -- Step by step, since nobody knows how large the next ones are; most likely as large as those before.
  local step, largest = 1, 1
  while wanted > 0 and bytes > 0 do
    local got = redis.call('RPOP', list, math.min(step, wanted))
    if not got then
      break
    end
    for _, raw in ipairs(got) do
      messages[#messages + 1] = raw
      bytes = bytes - #raw
      largest = math.max(largest, #raw)
    end
    wanted = wanted - #got
    step = math.min(step * 4, math.max(1, math.floor(bytes / largest)))
  end
  return bytes
end

-- The length of a list, or an error where the key is none.
local function length_of(list)
  local length = redis.pcall('LLEN', list)
  if type(length) == 'number' then
    return length
  end
  return 0, length
end

-- How many messages a consumer would take, and how many of them it could begin: 'most:slots'.
local function credit_of(credits, consumer)
  local most, slots = string.match(redis.call('HGET', credits, consumer) or '', '^(%d+):(%d+)$')
  return tonumber(most or '0'), tonumber(slots or '0')
end

-- What one call claims: gives `add(queue, messages)`, which takes what was popped (the queue's name as JSON text) and says how
-- many it is by now, and `write()`, for the end. The n-th message gets the tag prefix .. n. Goes before anything is popped: a key
-- of a wrong type has to fail here, since later there is no way back.
local function claims(unacked, index, leases, credits, workers, prefix, lease)
  redis.call('HLEN', unacked)
  redis.call('ZCARD', index)
  redis.call('ZCARD', leases)
  redis.call('HLEN', credits)
  redis.call('ZCARD', workers)
  check_aside(leases)
  local time = redis.call('TIME')
  local expiry = string.format('%.3f', time[1] + time[2] / 1000000 + lease / 1000)
  local taken, records, scores = 0, {}, {}
  local function write()
    if #records > 0 then
      redis.call('HSET', unacked, unpack(records))
      redis.call('ZADD', index, unpack(scores))
      redis.call('ZADD', leases, unpack(scores))
      records, scores = {}, {}
    end
  end
  local function add(queue, messages)
    local rest = ', "", ' .. queue .. ']'
    for _, raw in ipairs(messages) do
      taken = taken + 1
      local tag = prefix .. taken
      if may_be_message(raw) then
        records[#records + 1] = tag
        records[#records + 1] = '[' .. raw .. rest
        scores[#scores + 1] = expiry
        scores[#scores + 1] = tag
        -- Lua's stack bounds the number of arguments of one call.
        if #records >= 1000 then
          write()
        end
      else
        put_aside(leases, tag, queue, raw, time)
      end
    end
    return taken
  end
  return add, write
end

