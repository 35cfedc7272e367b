-- Takes or extends a singleton's term; answers whether the caller holds it.
--
-- ARGV[2..] name, holder, term in ms (0 resigns)
local key, holder, term = P .. 'leader:' .. ARGV[2], ARGV[3], tonumber(ARGV[4])
local leader = call('GET', key)
if leader and leader ~= holder then
  return cjson.encode({answer = 'no', leader = leader})
end
if term > 0 and leader then
  call('PEXPIRE', key, term)
elseif term > 0 then
  call('SET', key, holder, 'PX', term)
else
  call('DEL', key)
end
return cjson.encode({answer = 'yes'})
