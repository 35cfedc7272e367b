-- A worker ends: what it still had goes back to waiting without counting against the jobs.
--
-- ARGV[2..] worker, reason ("left", or what is known of its death)
local worker, reason = ARGV[2], ARGV[3]
if call('EXISTS', P .. 'worker:' .. worker) == 1 then
  if reason == 'left' then
    for _, id in ipairs(call('SMEMBERS', P .. 'worker:' .. worker .. ':jobs')) do
      local job = read(id)
      if job and job.worker == worker and job.state == 'running' then
        leave_worker(job)
        requeue(job, 'released', {}, {worker = worker, reason = 'worker shut down'})
      end
    end
  end
  expire_worker(worker, reason)
end
return cjson.encode({answer = 'ok'})
