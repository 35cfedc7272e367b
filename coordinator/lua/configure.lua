-- Sets the configured limits and times. What an operator set stays.
--
-- ARGV[2..] pairs name, value ("" removes)
local woken = {}
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    call('HDEL', P .. 'defaults', ARGV[i])
  elseif call('HGET', P .. 'defaults', ARGV[i]) ~= ARGV[i + 1] then
    call('HSET', P .. 'defaults', ARGV[i], ARGV[i + 1])
  end
end
return cjson.encode({answer = 'ok'})
