-- All that stops a waiting job now; changes nothing.
--
-- ARGV[2] job id
-- Answers {now, needs, parked, position, obstacles = {{resource, code, limit, hold, holders = {{id, worker,
--          started, expected, task}}, of}}} or {answer = none} when it does not wait
local SHOWN = 5
local job = read(ARGV[2])
local class = job and job.state == 'waiting' and class_read(job.class)
if not class then
  return cjson.encode({answer = 'none'})
end
local obstacles = {}
for _, resource in ipairs(class.needs) do
  local code = open ~= '1' and 'restoring' or obstacle(resource, class, job.task)
  if code then
    local entry = {resource = resource, code = code, limit = limit_of(resource) or nil}
    entry.hold = code == 'held' and call('HGET', P .. 'holds', resource) or nil
    local of = size('holders:' .. resource)
    local ids = call('SRANDMEMBER', P .. 'holders:' .. resource, SHOWN)
    if code == 'reserved' then
      ids = {call('HGET', P .. 'reservation', 'job')}
    end
    local holders = {}
    for _, id in ipairs(ids) do
      local run = read(id) or {}
      holders[#holders + 1] = {id = id, worker = run.worker, started = tonumber(run.started),
        task = run.task, state = run.state, expected = run.task and expected(run.task) or nil}
    end
    entry.holders, entry.of = #holders > 0 and holders or nil, of
    obstacles[#obstacles + 1] = entry
    if open ~= '1' then
      break
    end
  end
end
local position = position_of(job, class, class.parked)
return cjson.encode({now = now, needs = class.needs, parked = class.parked, position = position,
  task = job.task, expected = expected(job.task), obstacles = #obstacles > 0 and obstacles or nil})
