-- Capacity: what units there are, and why one cannot be had now.

local limits, holds, pending, sizes = {}, {}, {}, {}

-- Most of what can be there seldom is: one look at all of it, and another at each only if there is any.
local RARE = {'holds', 'limits', 'overrides', 'wakes', 'wide', 'reservation', 'kin', 'probing', 'standby'}
local there = {}
do
  local keys = {}
  for i, name in ipairs(RARE) do
    keys[i] = P .. name
  end
  if call('EXISTS', unpack(keys)) == 0 then
    for _, name in ipairs(RARE) do
      there[name] = false
    end
  end
end

-- Whether one of these, or `blocked`, exists. Whoever creates one says so: there[name] = true.
local function is_there(name)
  if there[name] == nil then
    there[name] = call('EXISTS', P .. name) == 1
  end
  return there[name]
end

-- The number of members of a set, which is asked for again and again while units are handed on.
local function size(key, command)
  if not sizes[key] then
    sizes[key] = call(command or 'SCARD', P .. key)
  end
  return sizes[key]
end

local function add(key, member)
  local new = call('SADD', P .. key, member)
  if sizes[key] then
    sizes[key] = sizes[key] + new
  end
end

local function remove(key, member, command)
  local gone = call(command or 'SREM', P .. key, member)
  if sizes[key] then
    sizes[key] = sizes[key] - gone
  end
end

-- Units of which an owner keeps what its jobs take, from its first job to its last.
local function is_kept(resource)
  return resource == 'serial' or resource:match('^model:') ~= nil
end

local grown = {}           -- owner -> resources that its jobs may be waiting for without need since it has a unit

local function grows(owner, resource)
  grown[owner] = grown[owner] or {}
  grown[owner][resource] = true
end

-- Takes a unit for a job; returns whether it is the job's own. Jobs of an owner take models and `serial` in its
-- name, and what it holds is free for its own jobs.
local function take(resource, id, owner)
  if owner == '' or not is_kept(resource) then
    add('holders:' .. resource, id)
    return true
  end
  add('holders:' .. resource, owner)
  if call('SADD', P .. 'owned:' .. owner, resource) == 1 then
    call('SADD', P .. 'owners', owner)
    grows(owner, resource)
  end
  return false
end

-- Whether the wake of a resource is not finished. Asked one by one: after a change of the configuration
-- thousands may be pending.
local function is_pending(resource)
  if is_there('wakes') and pending[resource] == nil then
    pending[resource] = call('SISMEMBER', P .. 'wakes', resource) == 1
  end
  return pending[resource] or false
end

local function postpone(resource)
  call('SADD', P .. 'wakes', resource)
  there.wakes, pending[resource] = true, true
end

-- The configured limits that apply to a resource, the most specific first.
local function configured(resource)
  local kind, name = resource:match('^(%l+):?(.*)$')
  if kind == 'org' then
    return 'org:' .. (name:match('^(.-)/') or name), 'org'
  elseif kind == 'queue' then
    return resource
  end
  return resource, kind
end

-- Looks up the limits of resources at once, and the times that whoever is admitted needs.
local TIMES = {'claim_ms', 'ahead_ms'}
local function learn(resources)
  local asked, names = {}, {}
  for _, resource in ipairs(resources) do
    if limits[resource] == nil then
      local first, second = configured(resource)
      asked[#asked + 1] = resource
      names[#names + 1] = first
      names[#names + 1] = second or first
    end
  end
  if #asked == 0 then
    return
  end
  for _, name in ipairs(TIMES) do
    names[#names + 1] = name
  end
  local found = call('HMGET', P .. 'defaults', unpack(names))
  for i, name in ipairs(TIMES) do
    defaults[name] = tonumber(found[2 * #asked + i]) or false
  end
  local own = is_there('limits') and call('HMGET', P .. 'limits', unpack(asked)) or {}
  local now_only = is_there('overrides') and call('HMGET', P .. 'overrides', unpack(asked)) or {}
  for i, resource in ipairs(asked) do
    limits[resource] = tonumber(now_only[i] or own[i] or found[2 * i - 1] or found[2 * i]) or false
  end
end

local function limit_of(resource)
  if limits[resource] == nil then
    learn({resource})
  end
  return limits[resource]
end

local function held(resource)
  if is_there('holds') and holds[resource] == nil then
    holds[resource] = call('HEXISTS', P .. 'holds', resource) == 1
  end
  return holds[resource] or false
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
local pools, consumers
local function pools_of(queue)
  if not pools then
    consumers = {}
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
  local known = consumers[queue]
  if known then
    return known.pools, known.siblings
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
  consumers[queue] = {pools = found, siblings = siblings}
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
    free = free + math.max(0, pool.slots - size('running:' .. pool.name))
  end
  -- Dispatched jobs of every queue that shares workers with this one may take these slots.
  for sibling in pairs(siblings) do
    free = free - size('dispatched:' .. sibling, 'ZCARD')
  end
  return free, slots, #found > 0
end

-- The measured run time of a task in ms, or nil.
local runtimes = {}
local function average_of(task)
  if runtimes[task] == nil then
    runtimes[task] = tonumber(call('HGET', P .. 'runtimes', task)) or false
  end
  return runtimes[task] or nil
end

local function short(task)
  local average = average_of(task)
  return average and average <= default('ahead_ms', 100)
end

-- The reservation (EASY backfilling, Lifka 1995): a job of several models that waited too long, or was passed
-- too often, keeps others from its models unless they are expected to end before it can start. There is one
-- at a time; `reserve` in reservation.lua gives and drops it.
local function reserved()
  if this.reservation == nil and not is_there('reservation') then
    this.reservation = false
  elseif this.reservation == nil then
    local raw = call('HMGET', P .. 'reservation', 'class', 'models', 'start')
    this.reservation = raw[1] and {class = raw[1], models = raw[2], start = tonumber(raw[3]), is_of = {}} or false
    for model in (raw[2] or ''):gmatch('%S+') do
      this.reservation.is_of[model] = true
    end
  end
  return this.reservation
end

-- Run time that is expected of a task, in ms.
local function expected(task)
  return average_of(task) or default('unknown_ms', 60000)
end

-- Whether the reservation keeps this job from a model.
local function kept(resource, class, task)
  local other = reserved()
  if not other or other.class == class.id or not other.is_of[resource]
    or now + expected(task) <= other.start then
    return false
  end
  -- What the reserved job waits for may go on: a workflow that holds one of the models.
  if class.owner ~= '' then
    for model in other.models:gmatch('%S+') do
      if call('SISMEMBER', P .. 'holders:' .. model, class.owner) == 1 then
        return false
      end
    end
  end
  return true
end

-- Why a unit of this resource cannot be had now, or nil. `task` is that of the job that asks.
local function obstacle(resource, class, task)
  if held(resource) then
    return 'held'
  end
  if class.owner ~= '' and call('SISMEMBER', P .. 'holders:' .. resource, class.owner) == 1 then
    return nil
  end
  if is_pending(resource) then
    return 'wake'
  end
  local limit = limit_of(resource)
  if limit and size('holders:' .. resource) >= limit then
    return limit == 0 and 'closed' or 'full'
  end
  if kept(resource, class, task) then
    return 'reserved'
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

return limits, holds, pending, sizes, runtimes, there, is_there, size, add, remove, is_kept, grown, grows,
  take, is_pending, postpone, learn, limit_of, held, split, pools_of, change_pool, window, average_of,
  short, reserved, expected, kept, obstacle
