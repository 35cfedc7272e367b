-- Capacity: what units there are, and why one cannot be had now.

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
  return resource, kind
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

-- The reservation (EASY backfilling, Lifka 1995): a job of several models that waited too long, or was passed
-- too often, keeps others from its models unless they are expected to end before it can start. There is one
-- at a time; `reserve` in reservation.lua gives and drops it.
local reservation
local function reserved()
  if reservation == nil then
    local raw = call('HMGET', P .. 'reservation', 'class', 'models', 'start')
    reservation = raw[1] and {class = raw[1], models = raw[2], start = tonumber(raw[3])} or false
  end
  return reservation
end

-- Run time that is expected of a task, in ms.
local function expected(task)
  return tonumber(call('HGET', P .. 'runtimes', task)) or default('unknown_ms', 60000)
end

-- Whether the reservation keeps this job from a model.
local function kept(resource, class, task)
  local other = reserved()
  if not other or other.class == class.id or not (' ' .. other.models .. ' '):find(' ' .. resource .. ' ', 1, true)
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
  if is_pending(resource) then
    return 'wake'
  end
  if held(resource) then
    return 'held'
  end
  local limit = limit_of(resource)
  if limit and call('SCARD', P .. 'holders:' .. resource) >= limit
    and (class.owner == '' or call('SISMEMBER', P .. 'holders:' .. resource, class.owner) == 0) then
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
