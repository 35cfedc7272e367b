-- Takes a dispatched job back that a worker received but will not run.
--
-- ARGV[2..] job id, token, reason, end ("" back to waiting, else the final state: canceled)
local job = read(ARGV[2])
if not job or job.token ~= ARGV[3] or job.state ~= 'dispatched' then
  return cjson.encode({answer = 'stale'})
end
recall(job)
if ARGV[5] == '' then
  requeue(job, 'undelivered', {}, {reason = ARGV[4]})
else
  finish(job, 'canceled', 'canceled', {}, {reason = ARGV[4], by = 'worker'})
end
return cjson.encode({answer = 'done'})
