-- What stops a waiting job, and the number of its turn there.

local COUNTED = 50         -- classes on one resource up to which positions are exact

-- The lanes of a resource with the number of their jobs, or false when too many classes are parked there.
local function parked_on(resource)
  local found = this.places[resource]
  if found == nil then
    local classes, lanes = 0, call('ZRANGE', P .. 'lanes:' .. resource, 0, COUNTED, 'WITHSCORES')
    found = {}
    for i = 1, #lanes, 2 do
      local ids = call('ZRANGE', P .. 'parked:' .. resource .. '|' .. lanes[i], 0, COUNTED)
      classes = classes + #ids
      if classes > COUNTED then
        found = false
        break
      end
      local jobs = 0
      for _, id in ipairs(ids) do
        jobs = jobs + call('ZCARD', P .. 'class:' .. id)
      end
      found[lanes[i]] = {score = tonumber(lanes[i + 1]), jobs = jobs}
    end
    this.places[resource] = found
  end
  return found
end

-- Jobs of its lane that are before a job.
local function before_in_lane(job, resource, lane)
  local before = 0
  for _, id in ipairs(call('ZRANGE', P .. 'parked:' .. resource .. '|' .. lane, 0, COUNTED)) do
    before = before + call('ZCOUNT', P .. 'class:' .. id, '-inf', '(' .. job.sequence)
  end
  return before
end

local function cost_of(lane)
  local org = lane:match('|(.*)$')
  return math.floor(STRIDE / (org ~= '' and limit_of('weight:' .. org) or 1))
end

-- The number of a job's turn among those parked on a resource: those of better priority come first, of the
-- same priority those whose lane has the smaller pass when this one's turn comes.
local function position_of(job, class, resource, newest)
  local lanes = parked_on(resource)
  if not lanes or not lanes[class.lane] then
    if newest then
      local name = job.queue .. '|waiting'
      return (tonumber(call('HGET', P .. 'counts', name)) or 0) + (counted[name] or 0)
    end
    -- Too many to count: what is certainly before it.
    local heads = call('ZCOUNT', P .. 'parked:' .. resource .. '|' .. class.lane, '-inf', '(' .. job.sequence)
    return math.max(heads, call('ZCOUNT', P .. 'class:' .. job.class, '-inf', '(' .. job.sequence)) + 1
  end
  local own = lanes[class.lane]
  local before = newest and own.jobs - 1 or before_in_lane(job, resource, class.lane)
  local turn, position = own.score + before * cost_of(class.lane), before + 1
  for name, lane in pairs(lanes) do
    if name ~= class.lane and turn >= lane.score then
      local cost = cost_of(name)
      -- Equal passes are served by the order of the lanes' names, as in the sorted set.
      local turns = math.floor((turn - lane.score) / cost)
      if name < class.lane or turns * cost < turn - lane.score then
        turns = turns + 1
      end
      position = position + math.min(lane.jobs, turns)
    end
  end
  return position
end

-- What stops a waiting job: the resource, the code, up to three holders and its position there.
local function blockers(job, class, resource, code, newest)
  local answer = {resource = resource, code = code, position = position_of(job, class, resource, newest)}
  local holders = call('SRANDMEMBER', P .. 'holders:' .. resource, 3)
  if #holders > 0 then
    answer.holders = holders
  end
  return answer
end

return position_of, blockers
