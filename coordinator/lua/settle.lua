-- Forgets what the store has committed: events up to the last one given, and jobs whose end is among them.
--
-- ARGV[2..] id of the last event, then pairs job id, version of each job that ended
for i = 3, #ARGV, 2 do
  local id = ARGV[i]
  local found = call('HMGET', P .. 'job:' .. id, 'state', 'version', 'queue', 'ended', 'entered', 'replaced',
    'canceled_in')
  local job = {state = found[1], version = found[2], queue = found[3], ended = found[4], canceled_in = found[7]}
  -- Only what is among the tombstones: of a job settled before, the trace is left alone.
  if FINAL[job.state] and tonumber(job.version) <= tonumber(ARGV[i + 1])
    and call('ZREM', P .. 'tombstones', id) == 1 and not found[6] then
    leave_trace(id, job, found[5] and 3600 or 60)
  end
end
local milliseconds, part = ARGV[2]:match('^(%d+)-(%d+)$')
call('XTRIM', P .. 'events', 'MINID', milliseconds .. '-' .. text(tonumber(part) + 1))
return cjson.encode({answer = 'ok'})
