-- Cancels a job that failed or is unprocessable: nobody needs to look at it any more.
--
-- ARGV[2..] job id; state, epoch, version, queue as the store has them; reason, by, nonce of this call
-- Answers {answer = done | active | ended, state}
local id, nonce = ARGV[2], ARGV[9]
local job, refused = ended_job(id, ARGV[3], ARGV[4], ARGV[5])
if not job then
  return cjson.encode(refused)
elseif job.was == 'canceled' and job.old and job.old.canceled_in == nonce then
  -- The same call again: its reply was lost.
  return cjson.encode({answer = 'done', state = job.was})
elseif job.was ~= 'failed' and job.was ~= 'unprocessable' then
  return cjson.encode({answer = 'ended', state = job.was})
end
clear(job)
job.queue = ARGV[6]
move(job, 'canceled', 'canceled', {queue = job.queue, ended = job.ended or '', canceled_in = nonce},
  {reason = ARGV[7], by = ARGV[8]})
return cjson.encode({answer = 'done', state = 'canceled'})
