-- Sets the configured limits and times. What an operator set stays.
--
-- ARGV[2..] pairs name, value ("" removes)
local changed = {}
for i = 2, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  if (call('HGET', P .. 'defaults', name) or '') ~= value then
    changed[name] = true
    if value == '' then
      call('HDEL', P .. 'defaults', name)
    else
      call('HSET', P .. 'defaults', name, value)
    end
  end
end
if next(changed) then
  for _, resource in ipairs(call('SMEMBERS', P .. 'blocked')) do
    local first, second = configured(resource)
    if changed[first] or changed[second or first] then
      postpone(resource)
    end
  end
  continue_wakes()
end
return cjson.encode({answer = 'ok'})
