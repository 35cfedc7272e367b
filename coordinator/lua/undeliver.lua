-- Takes a dispatched job back that a worker received but will not run.
--
-- ARGV[2..] job id, token, reason, end ("" back to waiting, else the final state: canceled)
local job = read(ARGV[2])
-- Adopted after a restore from the hands of its worker, before it was begun: the same as dispatched.
local adopted = job and job.state == 'running' and job.nonce == ''
if not job or job.token ~= ARGV[3] or not (job.state == 'dispatched' or adopted) then
  return cjson.encode({answer = 'stale'})
end
leave_worker(job)
recall(job)
if ARGV[5] == '' then
  requeue(job, 'undelivered', {}, {reason = ARGV[4]})
else
  finish(job, 'canceled', 'canceled', {}, {reason = ARGV[4], by = 'worker'})
end
return cjson.encode({answer = 'done'})
