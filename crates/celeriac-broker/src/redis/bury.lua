-- Put before scripts that add to the dead list: a hash of entries, a hash of the messages' bytes, ids by time, last id.

-- Moves a key of a wrong type out of the way: under its new name it loses nothing, and whoever needs the dead list goes on. The
-- server's log says so, since nobody who asks for messages could be told.
local function move_away(key, wanted)
  local number, name = 0, nil
  repeat
    number = number + 1
    name = key .. '.wrong_type:' .. number
  until redis.call('RENAMENX', key, name) == 1
  redis.log(redis.LOG_WARNING, 'celeriac: ' .. key .. ' was no ' .. wanted .. '. It is kept as ' .. name
    .. ', and a new one was begun: see who wrote it, then delete it.')
end

-- Once for each script, and before it has changed anything that must not be left half done: a wrong type in the dead list must
-- stop neither claiming nor settling nor restoring.
local is_mended = false
local function mend(entries, raws, index, last)
  if is_mended then
    return
  end
  is_mended = true
  local function is_error(reply)
    return type(reply) == 'table' and reply.err ~= nil
  end
  if is_error(redis.pcall('HLEN', entries)) then
    move_away(entries, 'hash')
  end
  if is_error(redis.pcall('HLEN', raws)) then
    move_away(raws, 'hash')
  end
  if is_error(redis.pcall('ZCARD', index)) then
    move_away(index, 'sorted set')
    -- What is in no index would be listed nowhere.
    for _, id in ipairs(redis.call('HKEYS', entries)) do
      redis.call('ZADD', index, string.match(redis.call('HGET', entries, id), '"at_ms":(%d+)') or '0', id)
    end
  end
  local id = redis.pcall('GET', last)
  if is_error(id) or id and (#id > 18 or not (id == '0' or string.find(id, '^%-?[1-9]%d*$'))) then
    move_away(last, 'number that can grow')
    redis.call('SET', last, redis.call('HLEN', raws))
  end
end

-- A message goes from one key to another inside the server: it may have a hundred megabytes.
local function bury(entries, raws, index, last, entry, raw, moment)
  mend(entries, raws, index, last)
  local id
  repeat
    id = redis.call('INCR', last)
  until redis.call('HEXISTS', raws, id) == 0 and redis.call('HSETNX', entries, id, entry) == 1
  redis.call('HSET', raws, id, raw)
  redis.call('ZADD', index, moment, id)
  return id
end

