-- Classes of waiting jobs: where they are parked, and whose turn it is.

local BAND = 2 ^ 49        -- room for passes below one priority
local STRIDE = 2 ^ 16      -- what one admission costs a lane of weight 1

-- The number of lanes parked on a resource.
local function lanes_on(resource)
  return is_there('blocked') and size('lanes:' .. resource, 'ZCARD') or 0
end

local function class_of(id, needs, priority, org, owner, parked)
  return {id = id, needs = split(needs), priority = priority, org = org, owner = owner, parked = parked,
    lane = priority .. '|' .. org}
end

local function class_read(id)
  local raw = call('HMGET', P .. 'needs:' .. id, 'needs', 'priority', 'org', 'owner', 'parked')
  if not raw[1] then
    return nil
  end
  return class_of(id, raw[1], raw[2], raw[3], raw[4], raw[5] or '')
end

-- The smallest score of the lanes of one priority on a resource, which begins at `base`.
local function smallest(resource, base)
  local first = call('ZRANGEBYSCORE', P .. 'lanes:' .. resource, text(base), text(base + BAND - 1), 'WITHSCORES',
    'LIMIT', 0, 1)
  return tonumber(first[2]) or base
end

-- Keeps the pass of a lane that is not parked on a resource. Those below the smallest parked there are worth
-- nothing: whoever comes back starts there.
local function keep_pass(resource, class, score)
  local passes = P .. 'passes:' .. resource
  if call('ZADD', passes, text(score), class.lane) == 1 and call('ZCARD', passes) % 64 == 0 then
    local base = class.priority * BAND
    call('ZREMRANGEBYSCORE', passes, text(base), text(smallest(resource, base)))
  end
end

local function unpark(class)
  if class.parked == '' then
    return
  end
  local resource, lane = class.parked, class.lane
  local parked = P .. 'parked:' .. resource .. '|' .. lane
  call('ZREM', parked, class.id)
  if call('EXISTS', parked) == 0 then
    local lanes = P .. 'lanes:' .. resource
    local score = call('ZSCORE', lanes, lane)
    remove('lanes:' .. resource, lane, 'ZREM')
    if lanes_on(resource) == 0 then
      call('DEL', P .. 'passes:' .. resource)
      call('SREM', P .. 'blocked', resource)
    else
      keep_pass(resource, class, score)
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
    local passes = P .. 'passes:' .. resource
    local score = math.max(smallest(resource, class.priority * BAND), tonumber(call('ZSCORE', passes, lane)) or 0)
    call('ZREM', passes, lane)
    call('ZADD', lanes, text(score), lane)
    call('SADD', P .. 'blocked', resource)
    local key = 'lanes:' .. resource
    sizes[key] = sizes[key] and sizes[key] + 1
    there.blocked = true
  end
end

local function drop(class)
  unpark(class)
  call('DEL', P .. 'needs:' .. class.id)
  if class.owner ~= '' then
    call('SREM', P .. 'kin:' .. class.owner, class.id)
    if call('EXISTS', P .. 'kin:' .. class.owner) == 0 then
      call('SREM', P .. 'kin', class.owner)
    end
  end
end

-- Charges one turn to the lane of an admitted job on every resource where others wait.
local function charge(class)
  for _, resource in ipairs(class.needs) do
    local lanes, number = P .. 'lanes:' .. resource, lanes_on(resource)
    -- A lane that is alone there takes turns with nobody, and whoever comes starts where it is.
    if number > 1 or (number == 1 and class.parked ~= resource) then
      local weight = class.org ~= '' and limit_of('weight:' .. class.org) or 1
      local score, cost = call('ZSCORE', lanes, class.lane), math.floor(STRIDE / weight)
      if score then
        call('ZADD', lanes, text(score + cost), class.lane)
      else
        local pass = call('ZSCORE', P .. 'passes:' .. resource, class.lane)
        keep_pass(resource, class, (tonumber(pass) or class.priority * BAND) + cost)
      end
    end
  end
end

return STRIDE, lanes_on, class_of, class_read, park, drop, charge
