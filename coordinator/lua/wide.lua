-- Wide jobs: those of several models, which a stream of narrow ones could starve.

local function several(needs)
  return needs[2] ~= nil and needs[2]:match('^model:') ~= nil
end

local function leave_wide(id)
  call('ZREM', P .. 'wide', id)
  if call('HGET', P .. 'reservation', 'job') == id then
    call('DEL', P .. 'reservation')
    reservation = false
  end
end

-- Counts how often the oldest wide job was passed by a later one on one of its models.
local function pass(class, job)
  local oldest = call('ZRANGE', P .. 'wide', 0, 0)[1]
  if not oldest or oldest == job.id then
    return
  end
  local other = call('HMGET', P .. 'job:' .. oldest, 'class', 'sequence')
  local needs = other[1] and call('HGET', P .. 'needs:' .. other[1], 'needs')
  if needs and tonumber(other[2]) < tonumber(job.sequence) then
    for _, resource in ipairs(class.needs) do
      if resource:match('^model:') and (' ' .. needs .. ' '):find(' ' .. resource .. ' ', 1, true) then
        call('HINCRBY', P .. 'job:' .. oldest, 'passed', 1)
        return
      end
    end
  end
end
