-- Opens admission after a restore: every parked class gets its turn.
if open ~= '1' then
  call('HSET', P .. 'meta', 'open', '1')
  open = '1'
end
local queues = {}
for i = 2, #ARGV do
  queues[#queues + 1] = ARGV[i]
end
wake(queues)
return cjson.encode({answer = 'ok'})
