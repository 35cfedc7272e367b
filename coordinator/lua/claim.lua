-- A worker takes a dispatched job: the first thing a task does.
-- Guarantee: of all deliveries of one dispatch exactly one is granted; the same claim repeated (its
-- reply was lost) is granted again.
--
-- ARGV[2..] job id, token, nonce of this claim, worker
-- Answers {answer = granted, attempts, retries, losses, models...} | stale | held | no-worker
local id, token, nonce, worker = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local job = read(id)
if not job or job.token ~= token then
  return cjson.encode({answer = 'stale', state = job and job.state})
end
if job.state == 'running' and job.worker == worker and (job.nonce == nonce or job.nonce == '') then
  if job.nonce == '' then
    call('HSET', P .. 'job:' .. id, 'nonce', nonce)
  end
  return cjson.encode({answer = 'granted', attempts = tonumber(job.attempts),
    losses = tonumber(job.losses) or 0, held = job.held})
end
if job.state ~= 'dispatched' then
  return cjson.encode({answer = 'stale', state = job.state})
end
local lease = call('ZSCORE', P .. 'workers', worker)
if not lease or tonumber(lease) <= now then
  return cjson.encode({answer = 'no-worker'})
end
if call('EXISTS', P .. 'holds') == 1 then
  for _, resource in ipairs(split(job.held, ' ')) do
    if held(resource) then
      -- Paused after it was dispatched: nothing starts once the pause has returned.
      leave_broker(job)
      requeue(job, 'undelivered', {}, {reason = 'held', resource = resource})
      return cjson.encode({answer = 'held', resource = resource})
    end
  end
end
leave_broker(job)
local pool = call('HGET', P .. 'worker:' .. worker, 'pool')
call('SADD', P .. 'worker:' .. worker .. ':jobs', id)
call('SADD', P .. 'running:' .. pool, id)
call('HINCRBY', P .. 'worker:' .. worker, 'assigned', 1)
local attempts = (tonumber(job.attempts) or 0) + 1
move(job, 'started', 'running', {worker = worker, nonce = nonce, attempts = attempts, pool = pool,
  started = text(now)}, {token = token, worker = worker, attempts = attempts})
if pool:find(',', 1, true) then
  -- A slot of a worker of several queues is taken: what its sibling queues may dispatch has changed.
  local queues = {}
  for _, queue in ipairs(split(pool, ',')) do
    queues[#queues + 1] = 'queue:' .. queue
  end
  wake(queues)
end
return cjson.encode({answer = 'granted', attempts = attempts, losses = tonumber(job.losses) or 0,
  held = job.held})
