-- Gives, moves and drops the reservation; part of tick.

local LOOKED_INTO = 100    -- holders that one tick looks at

-- When a unit of a resource is expected back: at the end of the holder that ends first, of some of them.
local function expected_back(resource, some)
  local earliest
  for _, id in ipairs(call('SRANDMEMBER', P .. 'holders:' .. resource, some)) do
    local run = read(id) or {}
    local elapsed = run.started and now - tonumber(run.started) or 0
    local average = expected(run.task or '')
    local left = average - elapsed
    if left <= 0 then
      -- Longer than expected: as long again as it is late, so that a job of days does not keep the other
      -- models idle.
      left = math.max(average / 10, -left)
    end
    earliest = math.min(earliest or now + left, now + left)
  end
  return earliest or now
end

local function models_of(needs)
  local models = {}
  for _, resource in ipairs(needs) do
    if resource:match('^model:') then
      models[#models + 1] = resource
    end
  end
  return models
end

-- Whether a waiting job could start if its models were free: nothing of it is held, and there are workers.
local function startable(class)
  for _, resource in ipairs(class.needs) do
    if held(resource) then
      return false
    end
  end
  local _, _, known = window(class.needs[#class.needs]:match('^queue:(.*)$'))
  return known
end

local LOOKED_AT = 3        -- jobs of several models that one tick looks at

local function reserve()
  local id = call('HGET', P .. 'reservation', 'job')
  local job = id and read(id)
  local class = job and job.state == 'waiting' and class_read(job.class)
  if id and not (class and startable(class)) then
    drop_reservation()
    class = nil
  end
  if not class then
    -- A few at a time, the next ones by the next tick: behind jobs of a queue that is paused for a day others wait.
    local from = call('HGET', P .. 'meta', 'wide_from')
    local some = call('ZRANGEBYSCORE', P .. 'wide', from or '-inf', '+inf', 'LIMIT', 0, LOOKED_AT)
    local after = #some == LOOKED_AT
    for _, candidate in ipairs(some) do
      local found = read(candidate)
      local its = found and found.state == 'waiting' and class_read(found.class)
      if not its then
        call('ZREM', P .. 'wide', candidate)
      elseif startable(its) then
        if now - found.sequence / 1000 > default('reservation_ms', 30000)
          or (tonumber(found.passed) or 0) >= default('reservation_passes', 100) then
          id, class = candidate, its
        end
        after = false
        break
      else
        after = after and '(' .. found.sequence
      end
    end
    if after and after ~= true then
      call('HSET', P .. 'meta', 'wide_from', after)
    elseif from then
      call('HDEL', P .. 'meta', 'wide_from')
    end
  end
  if class then
    local models, start = models_of(class.needs), now
    for _, resource in ipairs(models) do
      local limit = limit_of(resource)
      if limit and size('holders:' .. resource) >= limit then
        start = math.max(start, expected_back(resource, math.max(2, math.floor(LOOKED_INTO / #models))))
      end
    end
    local queue = class.needs[#class.needs]
    if window(queue:match('^queue:(.*)$')) <= 0 then
      start = math.max(start, expected_back(queue, 50))
    end
    call('HSET', P .. 'reservation', 'job', id, 'class', class.id, 'models', table.concat(models, ' '),
      'start', text(start))
    there.reservation, this.reservation = true, nil
    wake(models)
  end
end

return reserve
