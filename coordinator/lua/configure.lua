-- Sets the configured limits and times. What an operator set stays.
--
-- ARGV[2..] pairs name, value ("" removes)
local changed = false
for i = 2, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  if (call('HGET', P .. 'defaults', name) or '') ~= value then
    changed = changed or not name:match('_ms$')
    if value == '' then
      call('HDEL', P .. 'defaults', name)
    else
      call('HSET', P .. 'defaults', name, value)
    end
  end
end
if changed then
  -- All of them at once: to ask of ten thousand which the change concerns takes longer than to wake those in vain.
  call('SUNIONSTORE', P .. 'wakes', P .. 'wakes', P .. 'blocked')
  there.wakes = nil
  continue_wakes()
end
return cjson.encode({answer = 'ok'})
