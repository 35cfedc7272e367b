-- Everything that happens because time passes: leases, due jobs, ends of holds and limits, wakes.
-- Cheap and safe to call from anywhere as often as one likes; each part does a bounded piece.
--
-- Answers {answer = ok, expired = worker ids, more}
local CLAIMS = 10          -- owners that one script gives back what they held before a restore
local left = 24            -- jobs that this script still may move
local dispatching = {}     -- queues with jobs that are dispatched and not claimed
local counts = call('HGETALL', P .. 'counts')
for i = 1, #counts, 2 do
  local queue = counts[i]:match('^(.*)|dispatched$')
  if queue and tonumber(counts[i + 1]) > 0 then
    dispatching[#dispatching + 1] = queue
  end
end
local lease = default('lease_ms', 30000)
local known = call('HMGET', P .. 'meta', 'ticked', 'overdue')
local last, overdue = tonumber(known[1]), known[2]
local gap = now - (last or now)
-- Smaller steps are within the margin by which a worker ends its jobs before its lease does.
local step = math.max(300, math.min(2000, lease / 10))
if gap > step then
  if open == '0' then
    call('HINCRBY', P .. 'meta', 'admit_at', text(gap))
  end
  -- The clock stepped forward, or nobody ticked: each lease is extended once, so that a jump alone never
  -- takes a job from a healthy worker. Not again before its worker renewed: seldom ticks would keep the
  -- jobs of the dead for ever.
  for _, worker in ipairs(call('ZRANGE', P .. 'workers', 0, -1)) do
    if call('HSETNX', P .. 'worker:' .. worker, 'stretched', 1) == 1 then
      call('ZINCRBY', P .. 'workers', text(gap), worker)
    end
  end
elseif gap < -step then
  -- It stepped back: no lease is longer than one that begins now, nor is the time for which workers are awaited.
  if open == '0' then
    local admit_at = tonumber(call('HGET', P .. 'meta', 'admit_at')) or 0
    call('HSET', P .. 'meta', 'admit_at', text(math.min(admit_at, now + lease)))
  end
  overdue = '0'
  local longest = {workers = lease}
  for _, queue in ipairs(dispatching) do
    longest['dispatched:' .. queue] = default('claim_ms', 30000)
  end
  for name, most in pairs(longest) do
    for _, member in ipairs(call('ZRANGEBYSCORE', P .. name, now + most, '+inf')) do
      call('ZADD', P .. name, now + most, member)
    end
  end
end
-- A clock that creeps back is seen once it has gone far enough.
if not last or gap > 0 or gap < -step then
  call('HSET', P .. 'meta', 'ticked', text(now))
end

local more, expired = false, {}
if open == '0' and (call('EXISTS', P .. 'awaited') == 0
    or now >= (tonumber(call('HGET', P .. 'meta', 'admit_at')) or 0)) then
  -- What owners held for steps that wait is theirs again before anybody is admitted, unless somebody runs on it, or
  -- the owner's last job has ended meanwhile.
  local claims = call('HSCAN', P .. 'claims', 0, 'COUNT', CLAIMS)[2]
  for i = 1, #claims, 2 do
    local free, wanted = call('EXISTS', P .. 'members:' .. claims[i]) == 1, split(claims[i + 1])
    for _, resource in ipairs(wanted) do
      local limit = limit_of(resource)
      free = free and not (limit and size('holders:' .. resource) >= limit)
    end
    for _, resource in ipairs(free and wanted or {}) do
      take(resource, '', claims[i])
    end
    call('HDEL', P .. 'claims', claims[i])
  end
  more = call('EXISTS', P .. 'claims') == 1
  if not more then
    call('HSET', P .. 'meta', 'open', '1')
    call('DEL', P .. 'awaited')
    open = '1'
  end
end
if open == '1' and call('EXISTS', P .. 'restored') == 1 then
  -- What was restored is parked on its queues: they wake like after a resume.
  for _, resource in ipairs(call('SMEMBERS', P .. 'restored')) do
    postpone(resource)
  end
  call('DEL', P .. 'restored')
end

local function due(name)
  local ids = call('ZRANGEBYSCORE', P .. name, '-inf', now, 'LIMIT', 0, left)
  more = more or #ids == left
  left = left - #ids
  return ids
end

-- Whether the rest of what is due has to wait for the next piece.
local function spent()
  more = more or this.steps >= BUDGET
  return this.steps >= BUDGET
end

for _, worker in ipairs(due('workers')) do
  if this.taken < PIECE and this.steps < BUDGET and expire_worker(worker, 'its lease ended') then
    expired[#expired + 1] = worker
  else
    more = true
  end
end
for _, queue in ipairs(dispatching) do
  for _, id in ipairs(due('dispatched:' .. queue)) do
    if spent() then break end
    local job = read(id)
    if job and job.state == 'dispatched' then
      recall(job)
      requeue(job, 'undelivered', {}, {reason = 'not claimed in time'})
    else
      remove('dispatched:' .. queue, id, 'ZREM')
    end
  end
end
for _, id in ipairs(due('delayed')) do
  if spent() then break end
  call('ZREM', P .. 'delayed', id)
  local job = read(id)
  if job and job.state == 'delayed' then
    wait(job, 'promoted', {}, {}, {})
  end
end
if overdue then
  -- A retry was told to wait for seconds, not until the clock is again where it has been: it goes at once. A piece
  -- of the delayed jobs at a time, from `overdue` on.
  local some, all = call('ZSCAN', P .. 'delayed', overdue, 'COUNT', 50), true
  for i = 1, #some[2], 2 do
    local delay = call('HGET', P .. 'job:' .. some[2][i], 'delay')
    if delay and tonumber(some[2][i + 1]) > now + delay then
      if left <= 0 or spent() then
        all, more = false, true
        break
      end
      left = left - 1
      call('ZREM', P .. 'delayed', some[2][i])
      wait(read(some[2][i]), 'promoted', {}, {}, {})
    end
  end
  overdue = all and some[1] or overdue
  if all and overdue == '0' then
    call('HDEL', P .. 'meta', 'overdue')
  else
    call('HSET', P .. 'meta', 'overdue', overdue)
    more = true
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
for _, owner in ipairs(due('keeping')) do
  call('ZREM', P .. 'keeping', owner)
  for _, id in ipairs(call('SMEMBERS', P .. 'members:' .. owner)) do
    local job = read(id)
    if job and not job.attempts and job.state == 'dispatched' then
      -- It may be taken back before it begins: looked at again.
      call('ZADD', P .. 'keeping', now + 1000, owner)
    elseif job and not job.attempts then
      -- Its next step has not begun: others need not wait for that.
      emit('disowned', id, job.version, {by = 'coordinator', reason = 'its next step waited too long'})
      wake(disown(owner))
    end
  end
end
for _, entry in ipairs(due('ends')) do
  call('ZREM', P .. 'ends', entry)
  local kind, resource = entry:match('^(%l+) (.*)$')
  call('HDEL', P .. kind .. 's', resource)
  holds[resource], limits[resource] = nil, nil
  emit(kind == 'hold' and 'resumed' or 'override_reset', '', 0, {resource = resource, by = 'coordinator',
    reason = 'its time ended'})
  wake({resource})
end
if open == '1' and (call('EXISTS', P .. 'wide') == 1 or call('EXISTS', P .. 'reservation') == 1) then
  reserve()
end
continue_wakes()
more = more or (open == '1' and call('EXISTS', P .. 'wakes') == 1)
return cjson.encode({answer = 'ok', more = more, expired = #expired > 0 and expired or nil})
