-- A worker takes a dispatched job: the first thing a task does.
-- Guarantee: of all deliveries of one dispatch exactly one is granted; the same claim repeated (its
-- reply was lost) is granted again.
--
-- ARGV[2..] job id, token, nonce of this claim, worker, whether its process can stand by: "first" (yes), "last" (it
--           has), "" (no)
-- Answers {answer = granted, attempts, losses, held: the resources it needs, in their order} | stale | held | no-worker |
-- standby, seconds: its unit is another's; who has waited for so long at turn:<token>, where a grant may come, claims again
local id, token, nonce, worker, process = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local job = read(id)
local function refused(answer)
  -- Counted for people: messages that the worker fetched for nothing.
  if call('EXISTS', P .. 'worker:' .. worker) == 1 then
    call('HINCRBY', P .. 'worker:' .. worker, 'refused', 1)
  end
  return cjson.encode(answer)
end
if not job or job.token ~= token then
  return refused({answer = 'stale', state = job and job.state})
end
-- Also when it was told to stop meanwhile: the worker of a run that ends without a word would keep its
-- units until its lease ends; granted, it is told to stop.
if (job.state == 'running' or job.state == 'stopping') and job.worker == worker
  and (job.nonce == nonce or job.nonce == '') then
  if job.nonce == '' then
    set(job, {nonce = nonce})
  end
  return cjson.encode({answer = 'granted', attempts = tonumber(job.attempts),
    losses = tonumber(job.losses) or 0, held = job.needs})
end
if job.state ~= 'dispatched' then
  return refused({answer = 'stale', state = job.state})
end
local lease = call('ZSCORE', P .. 'workers', worker)
if not lease or tonumber(lease) <= now then
  return cjson.encode({answer = 'no-worker'})
end
for _, resource in ipairs(is_there('holds') and split(job.needs) or {}) do
  if held(resource) then
    -- Paused after it was dispatched: nothing starts once the pause has returned.
    leave_broker(job)
    requeue(job, 'undelivered', {}, {reason = 'held', resource = resource})
    return refused({answer = 'held', resource = resource})
  end
end
if job.knocked and job.nonce ~= nonce then
  return refused({answer = 'stale', state = job.state})
elseif job.standby and process == 'first' then
  set(job, {knocked = worker, knocked_at = text(now), nonce = nonce})
  return cjson.encode({answer = 'standby', seconds = STANDBY})
elseif job.standby then
  this.send_back(job, 'it stood by for too long')
  return refused({answer = 'stale', state = job.state})
end
local answer, pool = start(job, worker, nonce)
if process ~= '' then
  bring_next(job)
end
-- It left the messages that any worker of its queue may take and took a slot of this one: where workers
-- consume different sets of queues, that frees a slot for a sibling queue, or one of the queue's own workers.
if is_there('blocked') and (pool ~= job.queue or #with_siblings({'queue:' .. job.queue}) > 1) then
  wake({'queue:' .. job.queue})
end
return answer
