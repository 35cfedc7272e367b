-- Cancels a job that has not ended, releases a running one back to waiting, or fails it.
-- A running job keeps its units, as stopping, until its death is confirmed or its lease has ended.
--
-- ARGV[2..] job id, kind (cancel | release | fail | withdraw: cancel, but not a running one), reason, by,
--           nonce of this call, token of the run that is meant (none: whatever it is)
-- Answers {answer = done | stopping | gone | ended | idle | stale, state}
local job, kind, nonce = read(ARGV[2]), ARGV[3], ARGV[6]
if not job then
  return cjson.encode({answer = 'gone'})
elseif ARGV[7] and job.token ~= ARGV[7] then
  return cjson.encode({answer = 'stale', state = job.state})
end
local data = {reason = ARGV[4], by = ARGV[5]}
if job.state == 'canceled' and job.canceled_in == nonce then
  -- The same call again: its reply was lost.
  return cjson.encode({answer = 'done', state = job.state})
elseif FINAL[job.state] then
  return cjson.encode({answer = 'ended', state = job.state})
elseif kind == 'withdraw' and (job.state == 'running' or job.state == 'stopping') then
  return cjson.encode({answer = 'idle', state = job.state})
elseif job.state == 'stopping' then
  -- What ends it for good counts more than a release, and a cancel more than all.
  if job.stop ~= kind and (kind == 'cancel' or job.stop == 'release') then
    data.stop, data.worker, data.token = kind, job.worker, job.token
    move(job, 'stopping', 'stopping', {stop = kind, stop_reason = data.reason, stop_by = data.by}, data)
  end
  return cjson.encode({answer = 'stopping', state = job.state, worker = job.worker})
elseif job.state == 'running' then
  -- Into the log, where a restore finds it: a release that came back as a cancel would be a job lost. Whose run it is
  -- goes with it: the event must make sense to a store that has not seen the start.
  data.stop, data.worker, data.token = kind, job.worker, job.token
  move(job, 'stopping', 'stopping', {stop = kind, stop_reason = data.reason, stop_by = data.by}, data)
  return cjson.encode({answer = 'stopping', state = job.state, worker = job.worker})
elseif kind == 'release' or kind == 'fail' then
  return cjson.encode({answer = 'idle', state = job.state})
elseif open ~= '1' then
  -- A worker that has not reported yet may run it: nobody could stop that any more.
  return cjson.encode({answer = 'no-epoch'})
end
data.undelivered_result = true
if job.state == 'delayed' then
  call('ZREM', P .. 'delayed', job.id)
  move(job, 'canceled', 'canceled', {canceled_in = nonce}, data)
elseif job.state == 'waiting' then
  withdraw(job)
  move(job, 'canceled', 'canceled', {canceled_in = nonce}, data)
else
  recall(job)
  finish(job, 'canceled', 'canceled', {canceled_in = nonce}, data)
end
continue_wakes()
return cjson.encode({answer = 'done', state = job.state})
