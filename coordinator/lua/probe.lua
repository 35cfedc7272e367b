-- Begins the probing of a resource that is held: the hold ends, and the next run that fails brings one back in the
-- very step in which it gives its units back. How many run at once meanwhile is what its limit says.
--
-- ARGV[2..] resource, JSON {by, reason} of the hold to bring back ("" ends the probing), by, reason
local resource, note = ARGV[2], ARGV[3]
if note == '' then
  call('HDEL', P .. 'probing', resource)
  return cjson.encode({answer = 'done'})
end
call('HSET', P .. 'probing', resource, note)
there.probing = true
local before = call('HGET', P .. 'holds', resource)
if before then
  call('HDEL', P .. 'holds', resource)
  call('ZREM', P .. 'ends', 'hold ' .. resource)
  emit('resumed', '', 0, {resource = resource, by = ARGV[4], reason = ARGV[5], before = before})
  wake({resource})
end
return cjson.encode({answer = 'done', started = #started > 0 and started or nil})
