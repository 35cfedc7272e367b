-- How a run begins, and how a dispatch ends: from here on the job is on no list of the broker.

-- Ends the standing by of a job, if it does: it has got the unit or is no longer dispatched.
local function stand_down(job)
  if job.standby then
    call('HDEL', P .. 'standby', job.standby)
    set(job, {standby = false, knocked = false, knocked_at = false})
  end
end

local function leave_broker(job)
  remove('dispatched:' .. job.queue, job.id, 'ZREM')
  stand_down(job)
end

-- Lets a dispatched job begin in a worker. Returns what its process is told, and the worker's pool.
local function start(job, worker, nonce)
  leave_broker(job)
  local pool = call('HGET', P .. 'worker:' .. worker, 'pool')
  call('SADD', P .. 'worker:' .. worker .. ':jobs', job.id)
  add('running:' .. pool, job.id)
  call('HINCRBY', P .. 'worker:' .. worker, 'assigned', 1)
  local attempts = (tonumber(job.attempts) or 0) + 1
  move(job, 'started', 'running', {worker = worker, nonce = nonce, attempts = attempts, pool = pool,
    started = text(now)}, {token = job.token, worker = worker, attempts = attempts})
  return cjson.encode({answer = 'granted', attempts = attempts, losses = tonumber(job.losses) or 0,
    held = job.needs}), pool
end

return stand_down, leave_broker, start
