-- Gives back what an owner holds for its jobs, and hands it to whoever is next. Repeating it changes nothing.
--
-- ARGV[2] owner
local back = call('SMEMBERS', P .. 'owned:' .. ARGV[2])
for _, resource in ipairs(back) do
  remove('holders:' .. resource, ARGV[2])
end
call('DEL', P .. 'owned:' .. ARGV[2])
wake(back)
continue_wakes()
return cjson.encode({answer = 'done', started = #started > 0 and started or nil})
