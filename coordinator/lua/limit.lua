-- Sets the limit of a resource for good, overrides it until a time, or resets it to the configured one; running
-- jobs are left alone. An override that ends leaves the limit that was set for good.
--
-- ARGV[2..] resource, limit ("" resets), until ms (0 for good; else with "" only the override ends), by, reason
local resource, value, until_ms = ARGV[2], ARGV[3], tonumber(ARGV[4])

local function change(kind, after, ends)
  local before = call('HGET', P .. kind .. 's', resource)
  local ended = tonumber(call('ZSCORE', P .. 'ends', kind .. ' ' .. resource)) or 0
  if (before or '') == after and ended == ends then
    return false
  end
  call('ZREM', P .. 'ends', kind .. ' ' .. resource)
  if after == '' then
    call('HDEL', P .. kind .. 's', resource)
  else
    call('HSET', P .. kind .. 's', resource, after)
    there[kind .. 's'] = true
    if ends > 0 then
      call('ZADD', P .. 'ends', ends, kind .. ' ' .. resource)
    end
  end
  emit(kind .. (after == '' and '_reset' or '_set'), '', 0, {resource = resource, by = ARGV[5],
    reason = ARGV[6], before = before or nil, after = after ~= '' and after or nil,
    until_ms = ends > 0 and ends or nil})
  return true
end

local changed
if value == '' then
  changed = change('override', '', 0)
  changed = until_ms == 0 and change('limit', '', 0) or changed
else
  changed = change(until_ms > 0 and 'override' or 'limit', value, until_ms)
end
if changed then
  wake({resource})
end
return cjson.encode({answer = 'done', started = #started > 0 and started or nil})
