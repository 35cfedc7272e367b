-- How a run ends: the one place where units come back and where a job goes next.

local function leave_worker(job)
  if job.worker then
    call('SREM', P .. 'worker:' .. job.worker .. ':jobs', job.id)
    if job.pool then
      remove('running:' .. job.pool, job.id)
    end
  end
end

-- Removes the message of a dispatch that is taken back; a worker that already has it fails the claim.
local function recall(job)
  leave_broker(job)
  local message = message_of(job.id)
  if message then
    -- From the end where the oldest are: those are taken back for want of a worker.
    local mark = job.marked and ',"coordinator_standby":1' or ''
    call('LREM', job.queue, -1, message .. mark .. ',"coordinator_token":' .. job.token .. '}}')
  end
end

local function needs_of(job)
  return {needs = job.needs, priority = job.priority, org = job.org, owner = job.owner or ''}
end

-- Takes a waiting job out of its class.
local function withdraw(job)
  leave_wide(job.id)
  local class = class_read(job.class)
  call('ZREM', P .. 'class:' .. job.class, job.id)
  local first = call('ZRANGE', P .. 'class:' .. job.class, 0, 0, 'WITHSCORES')
  if first[1] then
    park(class, class.parked, first[2])
  else
    drop(class)
  end
end

-- The resource of those about to be woken where a class is parked meanwhile, so that the wake decides whose turn
-- it is, this job or one that waited longer.
local function place_among(back, needs)
  for _, resource in ipairs(back) do
    if (' ' .. needs .. ' '):find(' ' .. resource .. ' ', 1, true) then
      return resource
    end
  end
end

-- Sends back those that stand by for what a job needs and are later than it: it has its old place.
local function make_way(job, needs)
  for _, resource in ipairs(is_there('standby') and split(needs) or {}) do
    local id = call('HGET', P .. 'standby', resource)
    local other = id and read(id)
    if other and tonumber(other.sequence) > tonumber(job.sequence) and tonumber(other.priority) >= tonumber(job.priority) then
      this.send_back(other, 'an earlier job came back')
    end
  end
end

-- Into its class, at the place its sequence gives it. `back` are units that are free again.
local function wait(job, verb, changes, data, back)
  local needs = needs_of(job)
  make_way(job, needs.needs)
  changes.needs, changes.priority, changes.org, changes.due, changes.delay = false, false, false, false, false
  move(job, verb, 'waiting', changes, data)
  local stop, code = enqueue(job, needs, place_among(back, needs.needs))
  wake(back)
  return stop, code
end

local BROKEN = {failed = true, unprocessable = true, retried = true, expired = true}

-- A run that fails on a resource which is being probed ends the probing, before anybody else gets the unit.
-- What an operator ended says nothing of the resource.
local function probed(job, verb, data)
  for _, resource in ipairs(BROKEN[verb] and not data.by and is_there('probing') and split(job.held or '') or {}) do
    local note = call('HGET', P .. 'probing', resource)
    if note then
      note = cjson.decode(note)
      note.at_ms = now
      call('HDEL', P .. 'probing', resource)
      call('HSET', P .. 'holds', resource, cjson.encode(note))
      there.holds, holds[resource] = true, true
      emit('paused', '', 0, {resource = resource, by = note.by, reason = note.reason})
    end
  end
end

-- What a run gives back: the units the ledger recorded, and its slot, which may be of a worker that does
-- not consume the job's queue any more.
local function give_back(job)
  local back = release(job)
  for _, queue in ipairs(split(job.pool or '')) do
    back[#back + 1] = 'queue:' .. queue
  end
  return back
end

-- Back to waiting at its old place, or delayed until `due`. Gives back what it held; whoever is next starts.
local function requeue(job, verb, changes, data, due)
  probed(job, verb, data)
  local at_once = not (due and due > now)
  if at_once then
    make_way(job, job.held or '')
  end
  local back = give_back(job)
  changes.held, changes.worker, changes.pool, changes.nonce, changes.stop = false, false, false, false, false
  changes.progress, changes.progressed = false, false
  changes.stop_reason, changes.stop_by = false, false
  if job.expires then
    -- The entry is gone if the time came while it ran.
    call('ZADD', P .. 'expiring', job.expires, job.id)
  end
  if not at_once then
    changes.due, changes.needs, changes.priority, changes.org = text(due), job.needs, job.priority, job.org
    data.due_ms = due
    -- For when the clock steps back; what an operator delays has a moment that he named.
    changes.delay = verb ~= 'drained' and text(due - now)
    move(job, verb, 'delayed', changes, data)
    call('ZADD', P .. 'delayed', due, job.id)
    wake(back)
  else
    wait(job, verb, changes, data, back)
  end
end

this.send_back = function(job, reason)
  recall(job)
  requeue(job, 'undelivered', {}, {reason = reason})
end

-- Gives back what an owner holds for its jobs. Returns the resources, for the wake.
local function disown(owner)
  local back = call('SMEMBERS', P .. 'owned:' .. owner)
  this.steps = this.steps + #back
  for _, resource in ipairs(back) do
    remove('holders:' .. resource, owner)
  end
  call('DEL', P .. 'owned:' .. owner)
  call('SREM', P .. 'owners', owner)
  call('ZREM', P .. 'keeping', owner)
  return back
end

this.let_go = function()
  for owner in pairs(leaving) do
    leaving[owner] = nil
    if call('EXISTS', P .. 'members:' .. owner) == 0 then
      wake(disown(owner))
    end
  end
end

-- Accepts the job that follows the one that has ended: its owner keeps what it holds, for `keep_ms` at most.
-- It has the same place in the order, or it would hold its models behind all that came since.
local function follow(job, following, back)
  local owner, needs, keep_until = following.owner, needs_of(following), nil
  local fields = {queue = following.needs:match('queue:(%S+)$'), class = following.class, task = following.task,
    sequence = job.sequence, max_retries = following.max_retries, owner = owner ~= '' and owner or nil,
    -- Its sequence does not tell: the reaper would take it for one whose submission was recorded long ago.
    followed = text(now)}
  if owner ~= '' and following.keep_ms == 0 then
    for _, resource in ipairs(disown(owner)) do
      back[#back + 1] = resource
    end
  elseif owner ~= '' and following.keep_ms then
    keep_until = now + following.keep_ms
    call('ZADD', P .. 'keeping', keep_until, owner)
  end
  local successor = {id = following.id}
  for name, value in pairs(fields) do
    successor[name] = value
  end
  keep_message(successor.id, following.message)
  -- Right behind the end in the stream: the store gets both at once, or none.
  move(successor, 'submitted', 'waiting', fields, {sequence = job.sequence, row = following.row,
    keep_until = keep_until})
  enqueue(successor, needs, place_among(back, needs.needs))
end

local function finish(job, verb, state, changes, data, following)
  probed(job, verb, data)
  local back = give_back(job)
  changes.held, changes.pool = '', ''
  move(job, verb, state, changes, data)
  if following and not read(following.id) then
    follow(job, following, back)
  end
  wake(back)
end

-- A run that was told to end for good has ended: canceled, or failed if an operator said so.
local function stopped(job, changes, data)
  local state = job.stop == 'fail' and 'failed' or 'canceled'
  data.reason, data.by = job.stop_reason, job.stop_by
  data.error = state == 'failed' and job.stop_reason or data.error
  -- Also when it stopped by itself: no worker writes a result for that.
  data.undelivered_result = true
  finish(job, state, state, changes, data)
end

-- A run that ended without saying how: its worker or its process is gone. Counts against the job,
-- so that one that kills its workers stops; a job that was being stopped ends as it was asked to.
local function lose(job, reason)
  leave_worker(job)
  local data = {worker = job.worker, token = job.token, reason = reason}
  if job.state == 'stopping' then
    if job.stop ~= 'release' then
      stopped(job, {}, data)
    else
      data.reason, data.by = job.stop_reason, job.stop_by
      requeue(job, 'released', {}, data)
    end
    return
  end
  local losses = (tonumber(job.losses) or 0) + 1
  local retries, most = tonumber(job.retries) or 0, tonumber(job.max_retries) or 3
  data.losses = losses
  if (most >= 0 and retries + losses > most) or losses > math.max(most, 3) then
    emit('expired', job.id, job.version, {worker = job.worker, losses = losses, reason = reason})
    data.undelivered_result = true
    data.error = 'lost its worker ' .. losses .. ' times: ' .. reason
    finish(job, 'unprocessable', 'unprocessable', {losses = losses}, data)
  else
    requeue(job, 'expired', {losses = losses}, data)
  end
end

-- Slots of a worker for coordinated work; more other work than slots must not count against its pool.
local function room(slots, busy)
  return math.max(0, tonumber(slots) - tonumber(busy))
end

local PIECE = 20           -- jobs of lost workers that are taken back by one script

-- A worker whose lease has ended, or that left: its running jobs are lost, or released if it shut down in
-- order. Its slots go first, so that nothing is handed to it; its jobs follow piece by piece. Returns whether
-- that was all.
local function expire_worker(worker, reason)
  local key = P .. 'worker:' .. worker
  local known = call('HMGET', key, 'pool', 'slots', 'busy', 'gone')
  local woken = {}
  reason = known[4] or reason
  if known[1] then
    change_pool(known[1], -room(known[2], known[3]), -1)
    for _, queue in ipairs(split(known[1])) do
      woken[#woken + 1] = 'queue:' .. queue
    end
    call('HDEL', key, 'pool')
  end
  if not known[4] then
    call('HSET', key, 'gone', reason)
    call('ZADD', P .. 'workers', 0, worker)
  end
  local lost = {}
  for _, id in ipairs(call('SMEMBERS', key .. ':jobs')) do
    local found = call('HMGET', P .. 'job:' .. id, 'worker', 'sequence')
    if found[1] == worker then
      lost[#lost + 1] = {id = id, sequence = tonumber(found[2])}
    else
      call('SREM', key .. ':jobs', id)
    end
  end
  -- The oldest first: what goes back is handed on at once, before the next piece.
  table.sort(lost, function(one, other) return one.sequence < other.sequence end)
  for _, entry in ipairs(lost) do
    if this.taken >= PIECE or this.steps >= BUDGET then
      break
    end
    this.taken = this.taken + 1
    local job = read(entry.id)
    if job.state == 'running' and reason == 'left' then
      leave_worker(job)
      requeue(job, 'released', {}, {worker = worker, reason = 'worker shut down'})
    else
      lose(job, reason)
    end
  end
  -- Queues it linked may have slots of other workers to themselves now.
  wake(woken)
  if call('EXISTS', key .. ':jobs') == 1 then
    return false
  end
  call('ZREM', P .. 'workers', worker)
  call('DEL', key)
  emit('worker_' .. (reason == 'left' and 'left' or 'expired'), '', 0, {worker = worker, reason = reason})
  return true
end

return leave_worker, recall, withdraw, wait, requeue, disown, finish, stopped, lose, room,
  PIECE, expire_worker
