-- Looks for claims whose answer was lost, and renews what it gives: as long as a claim's record is in its place,
-- nobody else has it, even when its lease is over.
--
-- KEYS  1 unacked, 2 unacked index, 3 leases
-- ARGV  1 lease in ms; 0 gives up the first claim that is there: its lease is over, and whoever restores puts it back,
--       2 the most bytes, though one claim at least, 3… for each call the prefix of its tags, and the first number
-- Gives {1 when there is more, for each call that was come to the records of its claims}; of what is given up an empty text.

local gives_up = ARGV[1] == '0'
local expiry, bytes = '0', tonumber(ARGV[2])
if not gives_up then
  local time = redis.call('TIME')
  expiry = string.format('%.3f', time[1] + time[2] / 1000000 + ARGV[1] / 1000)
end
local aside = string.sub(KEYS[3], 1, -#'leases' - 1) .. 'aside:'
local found = {0}
for call = 3, #ARGV, 2 do
  -- A call claims all that it claims at once, so its tags are there without a gap, or not at all. Where some have gone, their
  -- lease was over, and the others go with them.
  local records, first = {}, tonumber(ARGV[call + 1])
  found[#found + 1] = records
  while true do
    local tag = ARGV[call] .. first + #records
    local length = redis.call('HSTRLEN', KEYS[1], tag)
    if length == 0 and redis.call('EXISTS', aside .. tag) == 0 then
      break
    end
    if bytes <= 0 then
      found[1] = 1
      return found
    end
    bytes = gives_up and 0 or bytes - length
    -- What was put aside is an empty text too; whoever takes it for this claim finds out.
    local record = ''
    if length > 0 then
      record = not gives_up and redis.call('HGET', KEYS[1], tag) or ''
      if not gives_up then
        redis.call('ZADD', KEYS[2], 'XX', expiry, tag)
      end
      redis.call('ZADD', KEYS[3], 'XX', expiry, tag)
    end
    records[#records + 1] = record
  end
end
return found
