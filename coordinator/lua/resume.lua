-- Ends a hold and wakes what waited for it.
--
-- ARGV[2..] resource, by, reason
local resource = ARGV[2]
local before = call('HGET', P .. 'holds', resource)
if not before then
  return cjson.encode({answer = 'idle'})
end
call('HDEL', P .. 'holds', resource)
call('ZREM', P .. 'ends', 'hold ' .. resource)
emit('resumed', '', 0, {resource = resource, by = ARGV[3], reason = ARGV[4], before = before})
wake({resource})
return cjson.encode({answer = 'done', started = #started > 0 and started or nil})
