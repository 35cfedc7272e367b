-- Admission: what stops a class, where it is parked, and who goes next when units come back.
--
-- Invariant: every class that has jobs is parked on exactly one resource that is full, held,
-- without a slot, or has a wake pending.

local BUDGET = 60          -- classes tried by all wakes of one script; the rest is left as a pending wake
local started = {}         -- ids dispatched by this script

-- Takes all units for the first job of a class and pushes its message to the broker, in one step.
local function admit(class, id)
  local job = read(id)
  local token = call('HINCRBY', P .. 'meta', 'token', 1)
  local mine = {}
  for _, resource in ipairs(class.needs) do
    if class.owner == '' or call('SISMEMBER', P .. 'holders:' .. resource, class.owner) == 0 then
      call('SADD', P .. 'holders:' .. resource, id)
      mine[#mine + 1] = resource
    end
  end
  call('ZREM', P .. 'class:' .. class.id, id)
  call('ZADD', P .. 'dispatched', now + default('claim_ms', 30000), id)
  call('SADD', P .. 'dispatched:' .. job.queue, id)
  move(job, 'dispatched', 'dispatched', {passed = job.passed and false or nil, token = text(token), held = table.concat(mine, ' '),
    needs = table.concat(class.needs, ' '), priority = class.priority, org = class.org}, {token = text(token)})
  call('LPUSH', job.queue, call('GET', P .. 'message:' .. id) .. ',"coordinator_token":' .. text(token) .. '}}')
  charge(class)
  if several(class.needs) then
    leave_wide(id)
  end
  pass(class, job)
  started[#started + 1] = id
end

-- Tries the first job of a class. Afterwards the class is parked where its next job must wait, or on
-- `from` (a resource being woken) when nothing stops it but its turn, or gone when it is empty.
local function try(class, from)
  local head = call('ZRANGE', P .. 'class:' .. class.id, 0, 0, 'WITHSCORES')
  local admitted = false
  while head[1] do
    local task = call('HGET', P .. 'job:' .. head[1], 'task')
    local stop, code
    if open ~= '1' then
      stop, code = class.needs[#class.needs], 'restoring'
      postpone(stop)
    else
      for _, resource in ipairs(class.needs) do
        code = obstacle(resource, class, task)
        if code then
          stop = resource
          break
        end
      end
    end
    if stop then
      park(class, stop, head[2])
      return admitted, stop, code
    end
    if admitted then
      -- Nothing stops the next job but its turn: it waits for it on the resource being woken.
      if not from then
        from = class.needs[#class.needs]
        postpone(from)
      end
      park(class, from, head[2])
      return true
    end
    admit(class, head[1])
    admitted = true
    head = call('ZRANGE', P .. 'class:' .. class.id, 0, 0, 'WITHSCORES')
  end
  drop(class)
  return admitted
end

-- The class whose turn it is among those parked on a resource, or nil.
local function next_of(resource)
  local lane = call('ZRANGE', P .. 'lanes:' .. resource, 0, 0)[1]
  if not lane or held(resource) then
    return nil
  end
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
  local function add(resource)
    if not seen[resource] then
      seen[resource] = true
      all[#all + 1] = resource
    end
  end
  for _, resource in ipairs(resources) do
    add(resource)
    local queue = resource:match('^queue:(.*)$')
    if queue then
      local _, siblings = pools_of(queue)
      for sibling in pairs(siblings) do
        add('queue:' .. sibling)
      end
    end
  end
  return all
end

-- Hands units that came back to the classes parked on these resources, one job at a time, in turn.
-- What the budget does not cover is noted as a pending wake, which counts as full for newcomers; so is
-- everything while admission is closed.
local steps = 0
local function wake(resources)
  local candidates = {}
  for _, resource in ipairs(with_siblings(resources)) do
    if open ~= '1' then
      if call('EXISTS', P .. 'lanes:' .. resource) == 1 then
        postpone(resource)
      end
    else
      if is_pending(resource) then
        call('SREM', P .. 'wakes', resource)
        pending[resource] = false
      end
      candidates[resource] = next_of(resource)
    end
  end
  while next(candidates) do
    if steps >= BUDGET then
      for resource in pairs(candidates) do
        postpone(resource)
      end
      return
    end
    steps = steps + 1
    local best
    for _, candidate in pairs(candidates) do
      if not best or candidate.priority < best.priority
        or (candidate.priority == best.priority and candidate.sequence < best.sequence) then
        best = candidate
      end
    end
    local class = class_read(best.class)
    local _, stop = try(class, best.resource)
    -- A class moves among its needs only, and only their turns are charged.
    for _, need in ipairs(class.needs) do
      if candidates[need] then
        candidates[need] = (need ~= stop or need ~= best.resource) and next_of(need) or nil
      end
    end
  end
end

local function continue_wakes()
  for _ = 1, 5 do
    if not waking or open ~= '1' or steps >= BUDGET then
      return
    end
    local left = call('SRANDMEMBER', P .. 'wakes', 20)
    waking = #left > 0
    wake(left)
  end
end

-- Puts a job into its class; tries the class if the job is its first, or parks it on `on`, a resource
-- that is about to be woken. Returns nil when it was admitted, else the resource and the code that stop it.
local function enqueue(job, needs, on)
  local id = job.class
  call('ZADD', P .. 'class:' .. id, job.sequence, job.id)
  if several(split(needs.needs)) then
    call('ZADD', P .. 'wide', job.sequence, job.id)
  end
  local class = class_read(id)
  if class then
    local first = call('ZRANGE', P .. 'class:' .. id, 0, 0, 'WITHSCORES')
    if first[1] == job.id then
      park(class, class.parked, first[2])
    end
    return class.parked, obstacle(class.parked, class, job.task) or 'turn'
  end
  call('HSET', P .. 'needs:' .. id, 'needs', needs.needs, 'priority', needs.priority,
    'org', needs.org, 'owner', needs.owner)
  class = class_read(id)
  if on then
    park(class, on, job.sequence)
    return on, 'turn'
  end
  local _, stop, code = try(class, nil)
  return stop, code
end

-- Gives back what the ledger recorded for the job. Returns the resources, for the wake.
local function release(job)
  local back = split(job.held or '')
  for _, resource in ipairs(back) do
    call('SREM', P .. 'holders:' .. resource, job.id)
  end
  return back
end
