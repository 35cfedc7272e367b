-- Forgets what the store has committed: events up to the last one given, and jobs whose end is among them.
-- Of these a trace is left for a while: a producer that lost the reply repeats its submission, and one that was
-- overtaken by the reaper or a restore makes it at last, when the job may be over.
--
-- ARGV[2..] id of the last event, then pairs job id, version of each job that ended
for i = 3, #ARGV, 2 do
  local key = P .. 'job:' .. ARGV[i]
  local job = call('HMGET', key, 'state', 'version')
  -- Only what is among the tombstones: of a job settled before, the trace is left alone.
  if FINAL[job[1]] and tonumber(job[2]) <= tonumber(ARGV[i + 1])
    and call('ZREM', P .. 'tombstones', ARGV[i]) == 1 then
    if call('HEXISTS', key, 'replaced') == 0 then
      local kept = call('HMGET', key, 'queue', 'entered', 'ended')
      call('HINCRBY', P .. 'counts', kept[1] .. '|' .. job[1], -1)
      call('DEL', key)
      call('HSET', key, 'state', job[1], 'version', job[2], 'queue', kept[1], 'ended', kept[3] or '')
      call('EXPIRE', key, kept[2] and 3600 or 60)
    end
  end
end
local milliseconds, part = ARGV[2]:match('^(%d+)-(%d+)$')
call('XTRIM', P .. 'events', 'MINID', milliseconds .. '-' .. text(tonumber(part) + 1))
return cjson.encode({answer = 'ok'})
