-- Settles deliveries. Each is first checked: a claim that was lost publishes nothing and stores nothing.
--
-- KEYS  1 unacked, 2 unacked index, 3 leases, 4 dead list, 5 dead index
-- ARGV  1 the database of KEYS, then for each delivery:
--       tag, where it is held ('u' unacked, 'd' dead list), number of messages, {'L' list | 'P' channel, name, message}…,
--       '0' | '1', database, key, document, lifetime in ms (what is stored),
--       'a' | 'r', list, message | 'd', entry, milliseconds since 1970 (what becomes of it)
-- Gives for each 1 done, 0 lost, or the text of an error, after which it is still held.

local at, own = 1, ARGV[1]
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

local replies, gone = {}, {}
while at < #ARGV do
  local tag, holder = take(), take()
  local list = holder == 'u' and KEYS[1] or KEYS[4]
  local messages, failure = tonumber(take()), nil
  local held
  if messages == 0 and ARGV[at + 1] == '0' and ARGV[at + 2] == 'a' then
    at = at + 2
    held = redis.call('HDEL', list, tag) == 1
  else
    held = redis.call('HEXISTS', list, tag) == 1
    for _ = 1, messages do
      local how, name, message = take(), take(), take()
      if held and not failure then
        local reply = redis.pcall(how == 'L' and 'LPUSH' or 'PUBLISH', name, message)
        failure = type(reply) == 'table' and reply.err
      end
    end
    if take() == '1' then
      local database, key, document, lifetime = take(), take(), take(), take()
      if held and not failure then
        failure = store(database, key, document, lifetime)
      end
    end
    local outcome = take()
    if outcome == 'r' then
      local name, message = take(), take()
      if held and not failure then
        local reply = redis.pcall('RPUSH', name, message)
        failure = type(reply) == 'table' and reply.err
      end
    elseif outcome == 'd' then
      local entry, moment = take(), take()
      if held and not failure then
        redis.call('HSET', KEYS[4], tag, entry)
        redis.call('ZADD', KEYS[5], moment, tag)
      end
    end
    if held and not failure and not (outcome == 'd' and holder == 'd') then
      redis.call('HDEL', list, tag)
    else
      holder = nil
    end
  end
  if held and holder == 'u' then
    gone[#gone + 1] = tag
  elseif held and holder == 'd' then
    redis.call('ZREM', KEYS[5], tag)
  end
  replies[#replies + 1] = failure or (held and 1 or 0)
end
for first = 1, #gone, 1000 do
  local last = math.min(first + 999, #gone)
  redis.call('ZREM', KEYS[2], unpack(gone, first, last))
  redis.call('ZREM', KEYS[3], unpack(gone, first, last))
end
return replies
