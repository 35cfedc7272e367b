-- Takes a running job out by force: its units are free at once, before its death is confirmed.
-- Its worker learns with its next renewal that it has lost the job, and ends it; what the run says later is
-- refused by its token.
--
-- ARGV[2..] job id, reason, by, nonce of this call
-- Answers {answer = done | gone | ended | idle, state}
local job = read(ARGV[2])
if not job then
  return cjson.encode({answer = 'gone'})
elseif job.state == 'canceled' and job.canceled_in == ARGV[5] then
  -- The same call again: its reply was lost.
  return cjson.encode({answer = 'done', state = job.state})
elseif FINAL[job.state] then
  return cjson.encode({answer = 'ended', state = job.state})
elseif job.state ~= 'running' and job.state ~= 'stopping' then
  return cjson.encode({answer = 'idle', state = job.state})
end
leave_worker(job)
local data = {reason = ARGV[3], by = ARGV[4], worker = job.worker, undelivered_result = true}
finish(job, 'canceled', 'canceled', {token = false, worker = false, canceled_in = ARGV[5]}, data)
continue_wakes()
return cjson.encode({answer = 'done', state = 'canceled'})
