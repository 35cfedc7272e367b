-- Ends a run, gives its units back and hands them to whoever is next, in one step.
-- Guarantee: only the run that holds the token can end the job; repeating it changes nothing.
--
-- ARGV[2..] job id, token, outcome (completed failed unprocessable retried replaced released lost),
--           data (JSON: result, error, reason ...), successor (JSON or ""): id, class, needs, priority, org,
--           owner, task, due_ms, expires_ms, clock_ms (who says them, at that), max_retries, retries, message,
--           row (JSON text or absent); for completed
--           it is the next step of a workflow, with keep_ms (how long its owner keeps what it holds until that
--           begins; absent: for ever); for completed perhaps the run's result for Celery: key, seconds to keep it (0 for ever), value
-- Answers {answer = done | again | stale | gone, started = ids, granted = those that began, state}
local id, token, outcome = ARGV[2], ARGV[3], ARGV[4]
local job = read(id)
if not job then
  return cjson.encode({answer = 'gone'})
end
if open == '0' and not FINAL[job.state] and tonumber(token) > (tonumber(job.token) or 0) then
  -- A run that the store did not know: its worker's next renewal brings it back, and then it can end.
  return cjson.encode({answer = 'no-epoch'})
end
if job.token ~= token or (job.state ~= 'running' and job.state ~= 'stopping') then
  if job.ended == token then
    return cjson.encode({answer = 'again', state = job.state})
  end
  emit('refused', id, job.version, {token = token, reason = outcome .. ' by a run that lost the job'})
  return cjson.encode({answer = 'stale', state = job.state})
end
local data = cjson.decode(ARGV[5])
data.token, data.worker = token, job.worker
-- Never below nothing: the clock may have stepped back since.
local runtime = math.max(0, now - tonumber(job.started))
local over = job.state == 'stopping' and job.stop ~= 'release'
if over and outcome == 'completed' and ARGV[6] ~= '' then
  -- It was canceled, and with it what would follow.
  leave_worker(job)
  stopped(job, {ended = token}, data)
elseif outcome == 'completed' or outcome == 'failed' or outcome == 'unprocessable' then
  leave_worker(job)
  data.runtime_ms = runtime
  local average = average_of(job.task) or runtime
  runtimes[job.task] = average + 0.3 * (runtime - average)
  call('HSET', P .. 'runtimes', job.task, string.format('%.1f', runtimes[job.task]))
  call('HINCRBY', P .. 'worker:' .. job.worker, outcome == 'completed' and 'completed' or 'failed', 1)
  if ARGV[7] then
    -- Before its models are given on: a run that lost them must not write over the next one's result.
    if ARGV[8] == '0' then
      call('SET', ARGV[7], ARGV[9])
    else
      call('SETEX', ARGV[7], ARGV[8], ARGV[9])
    end
    call('PUBLISH', ARGV[7], ARGV[9])
  end
  local following = outcome == 'completed' and ARGV[6] ~= '' and cjson.decode(ARGV[6]) or nil
  data.next = following and following.id
  finish(job, outcome, outcome, {ended = token}, data, following)
  local successor = following and read(following.id)
  if successor and successor.state == 'waiting' then
    local class = class_read(successor.class)
    local stop = class.parked
    emit('blocked', successor.id, successor.version,
      blockers(successor, class, stop, obstacle(stop, class, successor.task) or 'turn'))
  end
elseif outcome ~= 'lost' and over then
  -- Whatever it wanted to do next: it was canceled or failed before.
  leave_worker(job)
  stopped(job, {ended = token}, data)
elseif outcome == 'released' or (job.state == 'stopping' and outcome ~= 'lost' and ARGV[6] ~= '') then
  -- A retry that met the release is not counted: the message stays as it was and runs again.
  leave_worker(job)
  requeue(job, 'released', {ended = token}, data)
elseif outcome == 'retried' or outcome == 'replaced' then
  local following, verb = ARGV[6], outcome
  if following == '' and job.next_of == token then
    -- The canvas that replaced it has published this id already. Stopping: it goes on where it was released.
    following, verb = job.next, job.state == 'stopping' and 'released' or outcome
  end
  if following == '' then
    -- Replaced by a canvas: this id lives on when the canvas publishes it again.
    leave_worker(job)
    finish(job, 'replaced', 'completed', {ended = token, replaced = 1}, data)
  else
    local next = cjson.decode(following)
    local due, expires = by_redis(next.due_ms, next.clock_ms), by_redis(next.expires_ms, next.clock_ms)
    leave_worker(job)
    keep_message(id, next.message)
    local queue = next.needs:match('queue:(%S+)$')
    count(job.queue, job.state, -1)
    count(queue, job.state, 1)
    local owner = next.owner ~= '' and next.owner or nil
    if job.owner and job.owner ~= owner then
      call('SREM', P .. 'members:' .. job.owner, id)
      leaving[job.owner] = true
    end
    local changes = {class = next.class, task = next.task, retries = next.retries, queue = queue,
      max_retries = next.max_retries, ended = token, owner = owner or false,
      expires = expires > 0 and text(expires) or false}
    for name, value in pairs({class = next.class, task = next.task, queue = queue, needs = next.needs,
      priority = next.priority, org = next.org}) do
      job[name] = value
    end
    job.owner = owner
    join(job)
    job.expires = changes.expires or nil
    if not job.expires then
      call('ZREM', P .. 'expiring', id)
    end
    data.retries = tonumber(next.retries)
    data.row = next.row
    if job.next then
      changes.next, changes.next_of = false, false
    end
    requeue(job, verb, changes, data, due)
  end
else
  set(job, {ended = token})
  lose(job, type(data.reason) == 'string' and data.reason or 'its process died')
end
continue_wakes()
-- A job that went back may have been dispatched in this very step.
return cjson.encode({answer = 'done', state = job.state,
  started = #started > 0 and started or nil, granted = #granted > 0 and granted or nil})
