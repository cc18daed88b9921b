-- Rings the bell for each of these lists that has messages, so that it is named there once, and for no other.
--
-- KEYS  1 bell, 2 credits, 3… the lists
-- ARGV  1 seconds until the bell is forgotten, 2 '1' to do nothing while nobody has credit, 3… what names each list in the bell
-- Gives the places of the lists that have messages, counted from 1.

local waiting = {}
if ARGV[2] == '1' and redis.call('EXISTS', KEYS[2]) == 0 then
  return waiting
end
for place = 3, #KEYS do
  redis.call('LREM', KEYS[1], 0, ARGV[place])
  local length = redis.pcall('LLEN', KEYS[place])
  if type(length) == 'number' and length > 0 then
    redis.call('LPUSH', KEYS[1], ARGV[place])
    waiting[#waiting + 1] = place - 2
  end
end
if #waiting > 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
end
-- So that we are told when somebody takes what lies there. What we change ourselves is not tracked any more.
redis.call('LLEN', KEYS[1])
return waiting
