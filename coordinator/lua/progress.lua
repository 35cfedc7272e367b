-- Records the progress of a running job and tells it whether it has to stop. Each call is a sign of life.
--
-- ARGV[2..] job id, token, progress (JSON, or "" to ask only)
-- Answers {answer = ok | stale, stop = cancel | release | fail}
local fields = call('HMGET', P .. 'job:' .. ARGV[2], 'token', 'state', 'stop')
if fields[1] ~= ARGV[3] or (fields[2] ~= 'running' and fields[2] ~= 'stopping') then
  -- While the ledger is restored, its worker's renewal has yet to bring the run back.
  return cjson.encode({answer = open == '0' and 'ok' or 'stale'})
end
-- Removed first, which needs no memory: a Redis that is full then lets the script write what does.
call('HDEL', P .. 'job:' .. ARGV[2], 'progressed')
call('HSET', P .. 'job:' .. ARGV[2], 'progressed', text(now))
if ARGV[4] ~= '' then
  call('HSET', P .. 'job:' .. ARGV[2], 'progress', ARGV[4])
end
return cjson.encode({answer = 'ok', stop = fields[2] == 'stopping' and fields[3] or nil})
