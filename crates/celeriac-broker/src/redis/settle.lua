-- Settles deliveries. Each is first checked: a claim that was lost publishes nothing and stores nothing.
--
-- KEYS  1 unacked, 2 unacked index, 3 leases, 4 to 7 the dead list (see bury.lua)
-- ARGV  1 the database of KEYS, 2 lease in ms, then parts:
--       'p', and what has nothing about it but a result and an acknowledgement, all together: database of the results, lifetime
--       in ms, number of deliveries with a result, number of those without, the tags of all, {key, document} for each of the first
--       | one delivery: how it is held ('u' in unacked | 'b' the same, and then a key that goes with it | 'd' in the dead list), its tag there,
--       number of messages, {'L' list | 'P' channel, name, message}…,
--       '0' | '1', database, key, document, lifetime in ms (what is stored),
--       what becomes of it: 'a' | 'r', list, message (the same, 'k' instead of 'r' keeps the key) |
--       'd', entry, milliseconds since 1970, length of the message
-- Gives for each 1 done, 0 lost, {id in the dead list}, or the text of an error, after which it is still held.

local at, own = 2, ARGV[1]
local function take()
  at = at + 1
  return ARGV[at]
end

-- `store_result` is put before this script.
local function store(database, key, document, lifetime)
  if database ~= own then
    redis.call('SELECT', database)
  end
  local stored, failure = pcall(store_result, key, document, lifetime)
  if database ~= own then
    redis.call('SELECT', own)
  end
  if not stored then
    return type(failure) == 'table' and failure.err or tostring(failure)
  end
end

-- A server whose memory is full refuses what may need more, unless the script has written before. Settling frees more than it
-- takes, and without it nothing would ever be freed.
redis.call('ZREM', KEYS[3], '')

local replies, gone = {}, {}

-- Whoever takes a claim takes it out of the index in the same step, kombu as well as ours: where all of them were in it, all
-- stand. One that was not stands only if its record is in its place.
local function settle_plain(database, lifetime, stored, count)
  local first = at + 1
  at = at + count
  local all_stand = redis.call('ZREM', KEYS[2], unpack(ARGV, first, at)) == count
  local done, kept = {}, {}
  if stored > 0 and database ~= own then
    redis.call('SELECT', database)
  end
  for place = 0, count - 1 do
    local tag, reply = ARGV[first + place], 1
    if not all_stand then
      if database ~= own and place < stored then
        redis.call('SELECT', own)
      end
      reply = redis.call('HEXISTS', KEYS[1], tag)
      if database ~= own and place < stored then
        redis.call('SELECT', database)
      end
    end
    if place < stored then
      if reply == 1 then
        local is_stored, failure = pcall(store_result, ARGV[at + 1], ARGV[at + 2], lifetime)
        if not is_stored then
          reply = type(failure) == 'table' and failure.err or tostring(failure)
        end
      end
      at = at + 2
      if place == stored - 1 and database ~= own then
        redis.call('SELECT', own)
      end
    end
    replies[#replies + 1] = reply
    if reply == 1 then
      done[#done + 1] = tag
    elseif reply ~= 0 then
      kept[#kept + 1] = tag
    end
  end
  if #done > 0 then
    redis.call('HDEL', KEYS[1], unpack(done))
    redis.call('ZREM', KEYS[3], unpack(done))
  end
  if #kept > 0 then
    -- Still held, as after a renewal: whoever restores must find them should nobody come to settle them again.
    local time = redis.call('TIME')
    local expiry = string.format('%.3f', time[1] + time[2] / 1000000 + ARGV[2] / 1000)
    for _, tag in ipairs(kept) do
      redis.call('ZADD', KEYS[2], expiry, tag)
    end
  end
end

while ARGV[at + 1] == 'p' do
  take()
  local database, lifetime = take(), take()
  local stored, others = tonumber(take()), tonumber(take())
  settle_plain(database, lifetime, stored, stored + others)
end
while at < #ARGV do
  local holder, counted = take(), nil
  if holder == 'b' then
    counted = take()
  end
  local tag, messages, failure = take(), tonumber(take()), nil
  local list = holder == 'd' and KEYS[4] or KEYS[1]
  local reply
  if messages == 0 and ARGV[at + 1] == '0' and ARGV[at + 2] == 'a' then
    at = at + 2
    reply = redis.call('HDEL', list, tag)
  else
    local held = redis.call('HEXISTS', list, tag) == 1
    reply = held and 1 or 0
    for _ = 1, messages do
      local how, name, message = take(), take(), take()
      if held and not failure then
        local sent = redis.pcall(how == 'L' and 'LPUSH' or 'PUBLISH', name, message)
        failure = type(sent) == 'table' and sent.err
      end
    end
    if take() == '1' then
      local database, key, document, lifetime = take(), take(), take(), take()
      if held and not failure then
        failure = store(database, key, document, lifetime)
      end
    end
    local outcome = take()
    if outcome == 'r' or outcome == 'k' then
      local name, message = take(), take()
      if held and not failure then
        local sent = redis.pcall('RPUSH', name, message)
        failure = type(sent) == 'table' and sent.err
      end
      if outcome == 'k' then
        counted = nil
      end
    elseif outcome == 'd' then
      local entry, moment, length = take(), take(), take()
      if failure or not held then
        outcome = nil
        -- The claiming script may have put it aside; the entry says it better.
        local aside = string.sub(KEYS[3], 1, -#'leases' - 1) .. 'aside:' .. tag
        local id = holder ~= 'd' and not failure and redis.call('GET', aside)
        if id then
          redis.call('DEL', aside)
          if redis.call('HEXISTS', KEYS[4], id) == 1 then
            redis.call('HSET', KEYS[4], id, entry)
          end
          reply = {tonumber(id)}
        end
      elseif holder == 'd' then
        redis.call('HSET', KEYS[4], tag, entry)
      else
        local raw = string.sub(redis.call('HGET', KEYS[1], tag), 2, 1 + length)
        reply = {bury(KEYS[4], KEYS[5], KEYS[6], KEYS[7], entry, raw, moment)}
      end
    end
    if failure then
      reply = failure
    elseif held and not (outcome == 'd' and holder == 'd') then
      redis.call('HDEL', list, tag)
    else
      holder = nil
    end
  end
  if failure or reply == 0 or not holder then
    counted = nil
  elseif holder == 'd' then
    redis.call('HDEL', KEYS[5], tag)
    redis.call('ZREM', KEYS[6], tag)
  else
    gone[#gone + 1] = tag
  end
  if counted then
    redis.call('DEL', counted)
  end
  replies[#replies + 1] = reply
end
for first = 1, #gone, 1000 do
  local last = math.min(first + 999, #gone)
  redis.call('ZREM', KEYS[2], unpack(gone, first, last))
  redis.call('ZREM', KEYS[3], unpack(gone, first, last))
end
return replies
