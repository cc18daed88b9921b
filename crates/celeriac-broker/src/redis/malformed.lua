-- Put before scripts that claim, after bury.lua: what can be no message goes to the dead list instead of `unacked`, where
-- kombu's restore would end at it.

-- Whether a message may be one. What begins and ends as kombu and we write it is believed, since parsing each costs as much as
-- claiming it; whoever claimed it reads it at once and puts aside what the script let through.
local function may_be_message(raw)
  if string.sub(raw, 1, 10) == '{"body": "' and string.byte(raw, -1) == 125 then
    return true
  end
  if not string.find(raw, '^[ \t\r\n]*{') then
    return false
  end
  local last = #raw
  while last > 0 and string.find(' \t\r\n', string.sub(raw, last, last), 1, true) do
    last = last - 1
  end
  if string.byte(raw, last) ~= 125 then
    return false
  end
  -- The server does nothing else while it parses.
  return #raw > 65536 or pcall(cjson.decode, raw)
end

-- `leases` is the key of that name: the others are named like it. `queue` is JSON text, `time` is what TIME gave. For a minute
-- the tag leads to the id in the dead list, for the one who claimed it.
local function put_aside(leases, tag, queue, raw, time)
  local own = string.sub(leases, 1, -#'leases' - 1)
  local moment = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  local entry = '{"queue":' .. queue .. ',"reason":"malformed","detail":"it is no JSON object","at_ms":' .. moment
    .. ',"size":' .. #raw .. ',"priority":0}'
  local id = bury(own .. 'dead', own .. 'dead_raw', own .. 'dead_index', own .. 'dead_last', entry, raw, moment)
  redis.call('SET', own .. 'aside:' .. tag, id, 'PX', 60000)
end

