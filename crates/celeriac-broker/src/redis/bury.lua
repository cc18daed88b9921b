-- Put before scripts that add to the dead list: a hash of entries, a hash of the messages' bytes, ids by time, last id.
-- A message goes from one key to another inside the server: it may have a hundred megabytes.
local function bury(entries, raws, index, last, entry, raw, moment)
  local id
  repeat
    id = redis.call('INCR', last)
  until redis.call('HSETNX', entries, id, entry) == 1
  redis.call('HSET', raws, id, raw)
  redis.call('ZADD', index, moment, id)
  return id
end

