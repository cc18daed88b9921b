-- Put before scripts that claim, after bury.lua: what can be no message goes to the dead list instead of `unacked`, where
-- kombu's restore would end at it.

-- Whether a message may be one: malformed.rs has the same rule, and whoever claimed it reads by it what was put aside. It
-- looks at no more than 64 bytes at each end, since the server does nothing else meanwhile, and parses nothing: whoever claimed
-- it reads it at once and puts aside what the script let through.
local function may_be_message(raw)
  if string.byte(raw, 1) == 123 and string.byte(raw, -1) == 125 then
    return true
  end
  local first = string.match(string.sub(raw, 1, 64), '[^ \t\r\n]')
  local last = string.match(string.sub(raw, -64), '^.*([^ \t\r\n])')
  return (first or '{') == '{' and (last or '}') == '}' and (first ~= nil or #raw > 64)
end

-- The keys beside `leases` that this needs: the others are named like it.
local function aside_keys(leases)
  local own = string.sub(leases, 1, -#'leases' - 1)
  return own .. 'dead', own .. 'dead_raw', own .. 'dead_index', own .. 'dead_last', own .. 'aside:'
end

-- Goes before anything is popped: `put_aside` must not fail.
local function check_aside(leases)
  local entries, raws, index, last = aside_keys(leases)
  mend(entries, raws, index, last)
end

-- `queue` is JSON text, `time` is what TIME gave. For a minute the tag leads to the id in the dead list, for the one who
-- claimed it.
local function put_aside(leases, tag, queue, raw, time)
  local entries, raws, index, last, aside = aside_keys(leases)
  local moment = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  local entry = '{"queue":' .. queue .. ',"reason":"malformed","detail":"it is no JSON object","at_ms":' .. moment
    .. ',"size":' .. #raw .. ',"priority":0}'
  redis.call('SET', aside .. tag, bury(entries, raws, index, last, entry, raw, moment), 'PX', 60000)
end

