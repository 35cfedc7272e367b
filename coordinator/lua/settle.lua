-- Forgets what the store has committed: events up to the last one given, and jobs whose end is among them.
-- Of these a trace is left for a while: a producer that lost the reply repeats its submission, and one that was
-- overtaken by the reaper or a restore makes it at last, when the job may be over.
--
-- ARGV[2..] id of the last event, then pairs job id, version of each job that ended
local gone = {}
for i = 3, #ARGV, 2 do
  local key = P .. 'job:' .. ARGV[i]
  local job = call('HMGET', key, 'state', 'version', 'queue', 'ended', 'entered', 'replaced')
  -- Only what is among the tombstones: of a job settled before, the trace is left alone.
  if FINAL[job[1]] and tonumber(job[2]) <= tonumber(ARGV[i + 1])
    and call('ZREM', P .. 'tombstones', ARGV[i]) == 1 and not job[6] then
    local count = job[3] .. '|' .. job[1]
    gone[count] = (gone[count] or 0) + 1
    call('DEL', key)
    call('HSET', key, 'state', job[1], 'version', job[2], 'queue', job[3], 'ended', job[4] or '')
    call('EXPIRE', key, job[5] and 3600 or 60)
  end
end
for count, jobs in pairs(gone) do
  call('HINCRBY', P .. 'counts', count, -jobs)
end
local milliseconds, part = ARGV[2]:match('^(%d+)-(%d+)$')
call('XTRIM', P .. 'events', 'MINID', milliseconds .. '-' .. text(tonumber(part) + 1))
return cjson.encode({answer = 'ok'})
