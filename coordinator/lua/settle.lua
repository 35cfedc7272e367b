-- Forgets what the store has committed: events up to the last one given, and tombstones of jobs whose
-- end is among them.
--
-- ARGV[2..] id of the last event, then pairs job id, version of each job that ended
for i = 3, #ARGV, 2 do
  local key = P .. 'job:' .. ARGV[i]
  local job = call('HMGET', key, 'state', 'version')
  if FINAL[job[1]] and tonumber(job[2]) <= tonumber(ARGV[i + 1]) then
    call('ZREM', P .. 'tombstones', ARGV[i])
    if call('HEXISTS', key, 'replaced') == 0 then
      local queue = call('HGET', key, 'queue')
      call('HINCRBY', P .. 'counts', queue .. '|' .. job[1], -1)
      call('DEL', key)
    end
  end
end
local milliseconds, part = ARGV[2]:match('^(%d+)-(%d+)$')
call('XTRIM', P .. 'events', 'MINID', milliseconds .. '-' .. text(tonumber(part) + 1))
return cjson.encode({answer = 'ok'})
