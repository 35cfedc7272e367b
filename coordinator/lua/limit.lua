-- Sets or resets the limit of a resource, for good or until a time; running jobs are left alone.
--
-- ARGV[2..] resource, limit ("" resets to the configured one), until ms (0 for good), by, reason
local resource, value, until_ms = ARGV[2], ARGV[3], tonumber(ARGV[4])
local before = call('HGET', P .. 'limits', resource)
local ends = tonumber(call('ZSCORE', P .. 'ends', 'limit ' .. resource)) or 0
if (before or '') == value and ends == until_ms then
  return cjson.encode({answer = 'done'})
end
call('ZREM', P .. 'ends', 'limit ' .. resource)
if value == '' then
  call('HDEL', P .. 'limits', resource)
else
  call('HSET', P .. 'limits', resource, value)
  there.limits = true
  if until_ms > 0 then
    call('ZADD', P .. 'ends', until_ms, 'limit ' .. resource)
  end
end
emit(value == '' and 'limit_reset' or 'limit_set', '', 0, {resource = resource, by = ARGV[5],
  reason = ARGV[6], before = before or nil, after = value ~= '' and value or nil,
  until_ms = until_ms > 0 and until_ms or nil})
wake({resource})
return cjson.encode({answer = 'done', started = #started > 0 and started or nil})
