-- Looks for claims whose answer was lost, and renews what is there: as long as a claim's record is in its place,
-- nobody else has it, even when its lease is over.
--
-- KEYS  1 unacked, 2 unacked index, 3 leases
-- ARGV  1 lease in ms, 2… the prefixes of the tags of the calls
-- Gives for each call the records of its claims.

local time = redis.call('TIME')
local expiry = string.format('%.3f', time[1] + time[2] / 1000000 + ARGV[1] / 1000)
local aside = string.sub(KEYS[3], 1, -#'leases' - 1) .. 'aside:'
local found = {}
for call = 2, #ARGV do
  -- A call claims all that it claims at once, so its tags are there from 1 on, or not at all. Where some have gone, their lease
  -- was over, and the others go with them.
  local records = {}
  while true do
    local tag = ARGV[call] .. #records + 1
    local record = redis.call('HGET', KEYS[1], tag)
    if not record and redis.call('EXISTS', aside .. tag) == 1 then
      -- It was put aside; whoever takes this for it finds out.
      record = ''
    end
    if not record then
      break
    end
    redis.call('ZADD', KEYS[2], 'XX', expiry, tag)
    redis.call('ZADD', KEYS[3], 'XX', expiry, tag)
    records[#records + 1] = record
  end
  found[#found + 1] = records
end
return found
