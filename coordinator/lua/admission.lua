-- Admission: what stops a class, where it is parked, and who goes next when units come back.
--
-- Invariant: every class that has jobs is parked on exactly one resource that is full, held,
-- without a slot, or has a wake pending.

local BUDGET = 240         -- needs that one script goes through before it leaves the rest as pending wakes
local started = {}         -- ids dispatched by this script

-- Takes all units for a job of a class and pushes its message to the broker, in one step. All but one, perhaps, for
-- which it is to stand by.
local function admit(class, job, message, lacking)
  local id, token, mine = job.id, next_token(), {}
  this.steps = this.steps + #class.needs
  for _, resource in ipairs(class.needs) do
    if resource ~= lacking and take(resource, id, class.owner) then
      mine[#mine + 1] = resource
    end
  end
  local queue = 'dispatched:' .. job.queue
  call('ZADD', P .. queue, now + default('claim_ms', 30000), id)
  sizes[queue] = sizes[queue] and sizes[queue] + 1
  local changes = {token = token, held = table.concat(mine, ' '), needs = table.concat(class.needs, ' '),
    priority = class.priority, org = class.org}
  if job.passed then
    changes.passed = false
  end
  local mark = ''
  if lacking then
    -- Its worker must know: what stands by has not begun, and a restore must not take it for a job that runs.
    mark, changes.standby, changes.marked = ',"coordinator_standby":1', lacking, 1
    call('HSET', P .. 'standby', lacking, id)
    there.standby = true
  elseif job.marked then
    changes.marked = false
  end
  move(job, 'dispatched', 'dispatched', changes, {token = token, standby = lacking})
  call('LPUSH', job.queue, (message or message_of(id)) .. mark .. ',"coordinator_token":' .. token .. '}}')
  charge(class)
  this.places = {}
  if several(class.needs) then
    leave_wide(id)
  end
  pass(class, job)
  started[#started + 1] = id
end

-- The first resource that stops a job of a class, and the code; nil when nothing does.
local function stopped_by(class, task)
  if open ~= '1' then
    local queue = class.needs[#class.needs]
    postpone(queue)
    return queue, 'restoring'
  end
  learn(class.needs)
  this.steps = this.steps + #class.needs
  for _, resource in ipairs(class.needs) do
    local code = obstacle(resource, class, task)
    if code then
      return resource, code
    end
  end
end

-- Tries the first job of a class. Afterwards the class is parked where its next job must wait, or on
-- `from` (a resource being woken) when nothing stops it but its turn, or gone when it is empty.
local function try(class, from)
  local head = call('ZRANGE', P .. 'class:' .. class.id, 0, 1, 'WITHSCORES')
  if not head[1] then
    drop(class)
    return nil
  end
  local job = read(head[1])
  local stop = stopped_by(class, job.task)
  if stop then
    park(class, stop, head[2])
    return stop
  end
  call('ZREM', P .. 'class:' .. class.id, job.id)
  admit(class, job)
  if not head[3] then
    drop(class)
  else
    stop = stopped_by(class, read(head[3]).task)
    -- Nothing stops the next job but its turn: it waits for it on the resource being woken.
    park(class, stop or from, head[4])
  end
  return stop
end

-- Notes the owners whose jobs may go on past those who are parked before them on woken resources: what they hold is
-- free for their own jobs, and so is what is reserved for a job that waits for them.
local function note_kin(resources)
  local other, passing = reserved(), {}
  for model in (other and other.models or ''):gmatch('%S+') do
    for _, owner in ipairs(call('SINTER', P .. 'kin', P .. 'holders:' .. model)) do
      passing[owner] = true
    end
  end
  for _, resource in ipairs(resources) do
    if is_kept(resource) and lanes_on(resource) > 0 then
      for _, owner in ipairs(call('SINTER', P .. 'kin', P .. 'holders:' .. resource)) do
        grows(owner, resource)
      end
      if other and other.is_of[resource] then
        for owner in pairs(passing) do
          grows(owner, resource)
        end
      end
    end
  end
end

-- Tries the classes that are parked where their owner needs no unit any more. It is not their turn there: somebody
-- before them waits for the owner to give it back.
local function try_kin()
  local owner, resources = next(grown)
  while owner do
    grown[owner] = nil
    for _, id in ipairs(is_there('kin') and call('SMEMBERS', P .. 'kin:' .. owner) or {}) do
      local parked = call('HGET', P .. 'needs:' .. id, 'parked')
      if parked and resources[parked] then
        local class, stop = class_read(id), nil
        while not stop and class.parked ~= '' do
          if this.steps >= BUDGET then
            postpone(parked)
            break
          end
          stop = try(class, parked)
        end
      end
    end
    owner, resources = next(grown)
  end
end

-- The class whose turn it is among those parked on a resource, or nil.
local function next_of(resource)
  if lanes_on(resource) == 0 or held(resource) then
    return nil
  end
  local queue = resource:match('^queue:(.*)$')
  if queue then
    local free, slots = window(queue)
    if free + slots <= 0 then
      -- Not even a short task is dispatched further ahead.
      return nil
    end
  end
  local lane = call('ZRANGE', P .. 'lanes:' .. resource, 0, 0)[1]
  local other = reserved()
  if other and call('HGET', P .. 'needs:' .. other.class, 'parked') == resource then
    -- The reserved job goes before everybody who waits for the same.
    local class = class_read(other.class)
    local first = call('ZRANGE', P .. 'class:' .. other.class, 0, 0, 'WITHSCORES')
    return {resource = resource, class = class.id, priority = -1, sequence = tonumber(first[2])}
  end
  local first = call('ZRANGE', P .. 'parked:' .. resource .. '|' .. lane, 0, 0, 'WITHSCORES')
  return {resource = resource, class = first[1], priority = tonumber(lane:match('^%d+')),
    sequence = tonumber(first[2])}
end

-- The resources, and for each queue among them those it shares workers with: a slot serves them all.
local function with_siblings(resources)
  local all, seen = {}, {}
  local function see(resource)
    if not seen[resource] then
      seen[resource] = true
      all[#all + 1] = resource
    end
  end
  for _, resource in ipairs(resources) do
    see(resource)
    local queue = resource:match('^queue:(.*)$')
    if queue then
      local _, siblings = pools_of(queue)
      for sibling in pairs(siblings) do
        see('queue:' .. sibling)
      end
    end
  end
  return all
end

-- Hands units that came back to the classes parked on these resources, one job at a time, in turn.
-- What the budget does not cover is noted as a pending wake, which counts as full for newcomers; so is
-- everything while admission is closed.
local function wake(resources)
  if not is_there('blocked') and not is_there('wakes') and not is_there('standby') then
    return
  end
  local candidates = {}
  resources = with_siblings(resources)
  for _, resource in ipairs(resources) do
    if open ~= '1' then
      if lanes_on(resource) > 0 then
        postpone(resource)
      end
    else
      if is_pending(resource) then
        call('SREM', P .. 'wakes', resource)
        pending[resource] = false
      end
      local id = call_up(resource)
      if id then
        started[#started + 1] = id
        -- It took a slot of one worker; before it was counted for all workers of its queue.
        resources[#resources + 1] = 'queue:' .. read(id).queue
      end
    end
  end
  for _, resource in ipairs(open == '1' and with_siblings(resources) or {}) do
    candidates[resource] = next_of(resource)
  end
  while next(candidates) do
    if this.steps >= BUDGET then
      for resource in pairs(candidates) do
        postpone(resource)
      end
      break
    end
    local best
    for _, candidate in pairs(candidates) do
      if not best or candidate.priority < best.priority
        or (candidate.priority == best.priority and candidate.sequence < best.sequence) then
        best = candidate
      end
    end
    local class = class_read(best.class)
    local stop = try(class, best.resource)
    -- A class moves among its needs only, and only their turns are charged.
    for _, need in ipairs(class.needs) do
      if candidates[need] then
        candidates[need] = (need ~= stop or need ~= best.resource) and next_of(need) or nil
      end
    end
  end
  if open == '1' and is_there('kin') then
    note_kin(resources)
    try_kin()
  end
end

local function continue_wakes()
  if next(leaving) then
    this.let_go()
  end
  for _ = 1, 5 do
    if not is_there('wakes') or open ~= '1' or this.steps >= BUDGET then
      return
    end
    local left = call('SRANDMEMBER', P .. 'wakes', 20)
    there.wakes = #left > 0
    wake(left)
  end
end

-- Starts a job if nothing stops it and nobody waits in its class; else puts it there, parked on what stops it
-- or on `on`, a resource that is about to be woken. `message` is that of the job if the caller has it.
-- Returns nil when it was admitted, else the resource and the code that stop it, and its class.
local function enqueue(job, needs, on, message)
  local id, key = job.class, P .. 'class:' .. job.class
  local class = class_read(id)
  local stop, code = class and class.parked, nil
  if not class then
    class = class_of(id, needs.needs, needs.priority, needs.org, needs.owner, '')
    if on then
      stop, code = on, 'turn'
    else
      stop, code = stopped_by(class, job.task)
      if not stop then
        admit(class, job, message)
        try_kin()
        return nil
      end
    end
    call('HSET', P .. 'needs:' .. id, 'needs', needs.needs, 'priority', needs.priority,
      'org', needs.org, 'owner', needs.owner)
    if needs.owner ~= '' then
      call('SADD', P .. 'kin:' .. needs.owner, id)
      call('SADD', P .. 'kin', needs.owner)
      there.kin = true
    end
  end
  call('ZADD', key, job.sequence, job.id)
  if several(class.needs) then
    call('ZADD', P .. 'wide', job.sequence, job.id)
    there.wide = true
  end
  local first = call('ZRANGE', key, 0, 0)[1]
  if first == job.id then
    park(class, stop, job.sequence)
  end
  local lane = this.places[stop] and this.places[stop][class.lane]
  if lane then
    lane.jobs = lane.jobs + 1
  elseif this.places[stop] then
    -- Where there were too many to count there still are.
    this.places[stop] = nil
  end
  return stop, code or obstacle(stop, class, job.task) or 'turn', class
end

-- Gives back what the ledger recorded for the job. Returns the resources, for the wake.
local function release(job)
  local back = split(job.held or '')
  this.steps = this.steps + #back
  for _, resource in ipairs(back) do
    remove('holders:' .. resource, job.id)
  end
  return back
end

return BUDGET, started, admit, next_of, with_siblings, wake, continue_wakes, enqueue, release
