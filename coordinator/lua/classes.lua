-- Classes of waiting jobs: where they are parked, and whose turn it is.

local BAND = 2 ^ 49        -- room for passes below one priority
local STRIDE = 2 ^ 16      -- what one admission costs a lane of weight 1

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
  local weight = class.org ~= '' and limit_of('weight:' .. class.org) or 1
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
