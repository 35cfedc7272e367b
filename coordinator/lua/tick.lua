-- Everything that happens because time passes: leases, due jobs, ends of holds and limits, wakes.
-- Cheap and safe to call from anywhere as often as one likes; each part does a bounded piece.
--
-- Answers {answer = ok, next_ms, expired = worker ids, more}
local LIMIT = 50
local lease = default('lease_ms', 30000)
local last = tonumber(call('HGET', P .. 'meta', 'ticked')) or now
call('HSET', P .. 'meta', 'ticked', text(math.max(now, last)))
if math.abs(now - last) > lease / 2 then
  -- The clock stepped, or nobody was alive to renew: every lease is extended once, so that a jump
  -- alone never takes a job from a healthy worker.
  for _, name in ipairs({'workers', 'dispatched'}) do
    for _, member in ipairs(call('ZRANGE', P .. name, 0, -1)) do
      call('ZADD', P .. name, now + lease, member)
    end
  end
  call('HSET', P .. 'meta', 'ticked', text(now))
end

local more, expired = false, {}
local function due(name)
  local ids = call('ZRANGEBYSCORE', P .. name, '-inf', now, 'LIMIT', 0, LIMIT)
  more = more or #ids == LIMIT
  return ids
end

for _, worker in ipairs(due('workers')) do
  expire_worker(worker, 'its lease ended')
  expired[#expired + 1] = worker
end
for _, id in ipairs(due('dispatched')) do
  local job = read(id)
  if job and job.state == 'dispatched' then
    recall(job)
    requeue(job, 'undelivered', {}, {reason = 'not claimed in time'})
  else
    call('ZREM', P .. 'dispatched', id)
  end
end
for _, id in ipairs(due('delayed')) do
  call('ZREM', P .. 'delayed', id)
  local job = read(id)
  if job and job.state == 'delayed' then
    wait(job, 'promoted', {}, {}, {})
  end
end
for _, id in ipairs(due('expiring')) do
  call('ZREM', P .. 'expiring', id)
  local job = read(id)
  if job and (job.state == 'waiting' or job.state == 'delayed') then
    call('ZREM', P .. 'delayed', id)
    if job.state == 'waiting' then
      withdraw(job)
    end
    move(job, 'canceled', 'canceled', {}, {reason = 'its expires time has passed', by = 'coordinator',
      undelivered_result = true})
  end
end
for _, entry in ipairs(due('ends')) do
  call('ZREM', P .. 'ends', entry)
  local kind, resource = entry:match('^(%l+) (.*)$')
  call('HDEL', P .. (kind == 'hold' and 'holds' or 'limits'), resource)
  holds[resource], limits[resource] = nil, nil
  emit(kind == 'hold' and 'resumed' or 'limit_reset', '', 0, {resource = resource, by = 'coordinator',
    reason = 'its time ended'})
  wake({resource})
end
continue_wakes()
return cjson.encode({answer = 'ok', more = more, expired = #expired > 0 and expired or nil})
