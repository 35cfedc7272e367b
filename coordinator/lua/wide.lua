-- Wide jobs: those of several models, which a stream of narrow ones could starve.

local function several(needs)
  return needs[2] ~= nil and needs[2]:match('^model:') ~= nil
end

-- Whoever it kept from its models is stopped by nothing any more: they are to be woken.
local function drop_reservation()
  for _, model in ipairs(split(call('HGET', P .. 'reservation', 'models'))) do
    postpone(model)
  end
  call('DEL', P .. 'reservation')
  this.reservation = false
end

local function leave_wide(id)
  if not is_there('wide') then
    return
  end
  call('ZREM', P .. 'wide', id)
  if is_there('reservation') and call('HGET', P .. 'reservation', 'job') == id then
    drop_reservation()
  end
end

-- Counts how often the oldest wide job was passed by a later one on one of its models.
local function pass(class, job)
  local oldest = is_there('wide') and call('ZRANGE', P .. 'wide', 0, 0)[1]
  if not oldest or oldest == job.id then
    return
  end
  local other = read(oldest)
  local needs = other and call('HGET', P .. 'needs:' .. other.class, 'needs')
  if needs and tonumber(other.sequence) < tonumber(job.sequence) then
    for _, resource in ipairs(class.needs) do
      if resource:match('^model:') and (' ' .. needs .. ' '):find(' ' .. resource .. ' ', 1, true) then
        set(other, {passed = (tonumber(other.passed) or 0) + 1})
        return
      end
    end
  end
end

return several, drop_reservation, leave_wide, pass
