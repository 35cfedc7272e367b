-- Admission: what stops a class, where it is parked, and who goes next when units come back.
--
-- Invariant: every class that has jobs is parked on exactly one resource that is full, held,
-- without a slot, or has a wake pending.

local BAND = 2 ^ 49        -- room for passes below one priority
local STRIDE = 2 ^ 16      -- what one admission costs a lane of weight 1
local BUDGET = 60          -- classes tried by all wakes of one script; the rest is left as a pending wake
local started = {}         -- ids dispatched by this script

local limits, holds, pending = {}, {}, {}
local waking = call('EXISTS', P .. 'wakes') == 1

-- Whether the wake of a resource is not finished. Asked one by one: after a change of the configuration
-- thousands may be pending.
local function is_pending(resource)
  if waking and pending[resource] == nil then
    pending[resource] = call('SISMEMBER', P .. 'wakes', resource) == 1
  end
  return waking and pending[resource]
end

local function postpone(resource)
  call('SADD', P .. 'wakes', resource)
  waking, pending[resource] = true, true
end

-- The configured limits that apply to a resource, the most specific first.
local function configured(resource)
  local kind, name = resource:match('^(%l+):?(.*)$')
  if kind == 'org' then
    return 'org:' .. (name:match('^(.-)/') or name), 'org'
  elseif kind == 'queue' then
    return resource
  end
  return kind
end

local function limit_of(resource)
  local known = limits[resource]
  if known == nil then
    local first, second = configured(resource)
    known = call('HGET', P .. 'limits', resource) or call('HGET', P .. 'defaults', first)
      or (second and call('HGET', P .. 'defaults', second))
    known = tonumber(known) or false
    limits[resource] = known
  end
  return known
end

local function held(resource)
  if holds[resource] == nil then
    holds[resource] = call('HEXISTS', P .. 'holds', resource) == 1
  end
  return holds[resource]
end

-- No name contains a space, so that lists of needs and queues are joined by it.
local function split(list)
  local parts = {}
  for part in list:gmatch('[^ ]+') do
    parts[#parts + 1] = part
  end
  return parts
end

-- The pools of workers that consume a queue, and all queues they consume, as a set.
local pools
local function pools_of(queue)
  if not pools then
    pools = {}
    local raw = call('HGETALL', P .. 'pools')
    for i = 1, #raw, 2 do
      local pool = {name = raw[i], slots = tonumber(raw[i + 1]), queues = {}}
      for _, name in ipairs(split(raw[i])) do
        pool.queues[name] = true
      end
      pools[#pools + 1] = pool
    end
  end
  local found, siblings = {}, {}
  for _, pool in ipairs(pools) do
    if pool.queues[queue] then
      found[#found + 1] = pool
      for name in pairs(pool.queues) do
        siblings[name] = true
      end
    end
  end
  return found, siblings
end

-- Changes the slots and the number of workers of a pool; what was read of the pools is stale then.
local function change_pool(name, slots, workers)
  pools = nil
  -- Lua's -0 is no integer for Redis.
  call('HINCRBY', P .. 'pools', name, slots == 0 and 0 or slots)
  if call('HINCRBY', P .. 'pool_workers', name, workers) <= 0 then
    call('HDEL', P .. 'pools', name)
    call('HDEL', P .. 'pool_workers', name)
  end
end

-- Free slots for a queue, all slots of the workers that consume it, and whether there are such workers.
local function window(queue)
  local free, slots = 0, 0
  local found, siblings = pools_of(queue)
  for _, pool in ipairs(found) do
    slots = slots + pool.slots
    free = free + math.max(0, pool.slots - call('SCARD', P .. 'running:' .. pool.name))
  end
  -- Dispatched jobs of every queue that shares workers with this one may take these slots.
  for sibling in pairs(siblings) do
    free = free - call('SCARD', P .. 'dispatched:' .. sibling)
  end
  return free, slots, #found > 0
end

local function short(task)
  local average = tonumber(call('HGET', P .. 'runtimes', task))
  return average and average <= default('ahead_ms', 100)
end

-- Why a unit of this resource cannot be had now, or nil. `task` names the job that asks.
local function obstacle(resource, owner, task)
  if is_pending(resource) then
    return 'wake'
  end
  if held(resource) then
    return 'held'
  end
  local limit = limit_of(resource)
  if limit and call('SCARD', P .. 'holders:' .. resource) >= limit
    and (owner == '' or call('SISMEMBER', P .. 'holders:' .. resource, owner) == 0) then
    return limit == 0 and 'closed' or 'full'
  end
  local queue = resource:match('^queue:(.*)$')
  if queue then
    local free, slots, known = window(queue)
    if not known then
      return 'no-worker'
    end
    -- Tasks known to be short are dispatched ahead of free slots, at most one a slot.
    if free <= 0 and not (free + slots > 0 and short(task)) then
      return 'no-slot'
    end
  end
  return nil
end

local function class_read(id)
  local raw = call('HMGET', P .. 'needs:' .. id, 'needs', 'priority', 'org', 'owner', 'parked')
  if not raw[1] then
    return nil
  end
  return {id = id, needs = split(raw[1]), priority = raw[2], org = raw[3], owner = raw[4],
    parked = raw[5] or '', lane = raw[2] .. '|' .. raw[3]}
end

local function unpark(class)
  if class.parked == '' then
    return
  end
  local resource, lane = class.parked, class.lane
  local parked = P .. 'parked:' .. resource .. '|' .. lane
  call('ZREM', parked, class.id)
  if call('EXISTS', parked) == 0 then
    call('ZREM', P .. 'lanes:' .. resource, lane)
    if call('EXISTS', P .. 'lanes:' .. resource) == 0 then
      call('DEL', P .. 'passes:' .. resource)
      call('SREM', P .. 'blocked', resource)
    end
  end
  class.parked = ''
end

local function park(class, resource, sequence)
  if class.parked ~= resource then
    unpark(class)
    class.parked = resource
    call('HSET', P .. 'needs:' .. class.id, 'parked', resource)
  end
  call('ZADD', P .. 'parked:' .. resource .. '|' .. class.lane, sequence, class.id)
  local lanes, lane = P .. 'lanes:' .. resource, class.lane
  if not call('ZSCORE', lanes, lane) then
    -- An org that comes back starts at the current minimum of its priority: it can neither save up
    -- turns while it is away nor gain one by leaving and coming back.
    local base = class.priority * BAND
    local first = call('ZRANGEBYSCORE', lanes, text(base), text(base + BAND - 1), 'WITHSCORES', 'LIMIT', 0, 1)
    local pass = math.max(first[2] and tonumber(first[2]) - base or 0,
      tonumber(call('HGET', P .. 'passes:' .. resource, lane)) or 0)
    call('ZADD', lanes, text(base + pass), lane)
    call('SADD', P .. 'blocked', resource)
  end
end

local function drop(class)
  unpark(class)
  call('DEL', P .. 'needs:' .. class.id)
end

-- Charges one turn to the lane of an admitted job on every resource where others wait.
local function charge(class)
  local weight = tonumber(call('HGET', P .. 'weights', class.org)) or 1
  for _, resource in ipairs(class.needs) do
    local lanes = P .. 'lanes:' .. resource
    if call('EXISTS', lanes) == 1 then
      local base = class.priority * BAND
      local score = tonumber(call('ZSCORE', lanes, class.lane))
      local pass = (score and score - base
        or tonumber(call('HGET', P .. 'passes:' .. resource, class.lane)) or 0) + math.floor(STRIDE / weight)
      call('HSET', P .. 'passes:' .. resource, class.lane, text(pass))
      if score then
        call('ZADD', lanes, text(base + pass), class.lane)
      end
    end
  end
end

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
  move(job, 'dispatched', 'dispatched', {token = text(token), held = table.concat(mine, ' '),
    needs = table.concat(class.needs, ' '), priority = class.priority, org = class.org}, {token = text(token)})
  call('LPUSH', job.queue, call('GET', P .. 'message:' .. id) .. ',"coordinator_token":' .. text(token) .. '}}')
  charge(class)
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
        code = obstacle(resource, class.owner, task)
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
  local class = class_read(id)
  if class then
    local first = call('ZRANGE', P .. 'class:' .. id, 0, 0, 'WITHSCORES')
    if first[1] == job.id then
      park(class, class.parked, first[2])
    end
    return class.parked, obstacle(class.parked, class.owner, job.task) or 'turn'
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

-- What stops a waiting job: the resource, the code, up to three holders and its position there.
-- Counting is bounded: on a queue all that wait there count, and beyond 50 classes on one resource only those of the own class count.
local function blockers(job, resource, code)
  local answer = {resource = resource, code = code}
  local holders = call('SRANDMEMBER', P .. 'holders:' .. resource, 3)
  if #holders > 0 then
    answer.holders = holders
  end
  if resource:match('^queue:') or resource == 'serial' then
    -- Everything on the queue waits there: its count is the position.
    answer.position = math.max(1, tonumber(call('HGET', P .. 'counts', job.queue .. '|waiting')) or 1)
    return answer
  end
  local position, looked = 0, 0
  local lanes = call('ZRANGE', P .. 'lanes:' .. resource, 0, 49)
  for _, lane in ipairs(lanes) do
    for _, class in ipairs(call('ZRANGE', P .. 'parked:' .. resource .. '|' .. lane, 0, 49)) do
      looked = looked + 1
      if looked <= 50 or class == job.class then
        position = position + call('ZCOUNT', P .. 'class:' .. class, '-inf', job.sequence)
      end
    end
  end
  answer.position = math.max(position, 1)
  return answer
end
