-- Moves messages from the dead list to the producers' end of lists.
--
-- KEYS  1 entries, 2 bytes, 3 index
-- ARGV  for each: id, list, key to delete or ''
-- Gives for each 1 moved, 0 not there, or the text of an error, after which it is still there.

local replies = {}
for at = 1, #ARGV, 3 do
  local id = ARGV[at]
  local raw, reply = redis.call('HGET', KEYS[2], id), 0
  if raw then
    reply = redis.pcall('LPUSH', ARGV[at + 1], raw)
    if type(reply) == 'table' then
      reply = reply.err
    else
      redis.call('HDEL', KEYS[1], id)
      redis.call('HDEL', KEYS[2], id)
      redis.call('ZREM', KEYS[3], id)
      if ARGV[at + 2] ~= '' then
        redis.call('DEL', ARGV[at + 2])
      end
      reply = 1
    end
  end
  replies[#replies + 1] = reply
end
return replies
