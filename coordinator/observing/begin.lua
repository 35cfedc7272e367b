-- A run begins: it is marked on its models, and who else runs on them at this moment is counted as a conflict.
--
-- Guarantee: a run is counted once, and never against itself, another run of the same job or one of the same owner.
-- KEYS[1]  first part of every key
-- ARGV[1]  the run: key, job, task, worker, owner, root, parent, models {name, limit}
-- ARGV[2]  milliseconds for which a mark lives without being renewed
-- ARGV[3]  milliseconds for which counts live without a run
-- ARGV[4]  examples that are kept
-- ARGV[5]  0, or when the run began: the second look at one that overlapped with a relative
-- Answers  {answer, microseconds of now}: free, conflict, or relative: only runs of earlier steps stand in the way. A
--          chain sends the next step a moment before the step ends, so that is looked at again.
local P, run, began = KEYS[1], cjson.decode(ARGV[1]), tonumber(ARGV[5])
local again = began > 0
local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- As text: as a number it would lose its end.
local exactly = string.format('%d%06d', time[1], time[2])
--- Members of one model that are looked at, and pairs and tasks that are counted apart.
local LOOKED_AT, COUNTED = 50, 5000

local function count(hash, field)
  if call('HEXISTS', P .. hash, field) == 0 and call('HLEN', P .. hash) >= COUNTED then
    return
  end
  call('HINCRBY', P .. hash, field, 1)
end

local function related(job, root, parent)
  return job == run.parent or (root == run.root and parent ~= run.parent)
end

local function others(name)
  local key, found, relatives = P .. 'model:' .. name, {}, 0
  for _, member in ipairs(call('SRANDMEMBER', key, LOOKED_AT)) do
    local other = call('HMGET', P .. 'run:' .. member, 'job', 'task', 'worker', 'owner', 'at', 'root', 'parent')
    local at = tonumber(other[5] or 0)
    if not other[1] then
      -- Its process was killed: nobody renewed the mark.
      call('SREM', key, member)
    elseif other[1] ~= run.job and (run.owner == '' or other[4] ~= run.owner) and not (again and at > began) then
      table.insert(found, {job = other[1], task = other[2], worker = other[3], at = at})
      relatives = relatives + (related(other[1], other[6], other[7]) and 1 or 0)
    end
  end
  table.sort(found, function(a, b) return a.at < b.at end)
  return found, relatives
end

local conflicts, relative = {}, false
for _, model in ipairs(run.models) do
  local found, relatives = others(model.name)
  if #found >= model.limit then
    if not again and #found - relatives < model.limit then
      relative = true
    else
      table.insert(conflicts, {model = model.name, other = found[1]})
    end
  end
end

if not again then
  call('SET', P .. 'since', now, 'NX')
  count('runs', run.task)
  call('HSET', P .. 'run:' .. run.key, 'job', run.job, 'task', run.task, 'worker', run.worker, 'owner', run.owner,
    'root', run.root, 'parent', run.parent, 'at', exactly)
  call('PEXPIRE', P .. 'run:' .. run.key, ARGV[2])
  for _, model in ipairs(run.models) do
    call('SADD', P .. 'model:' .. model.name, run.key)
    call('PEXPIRE', P .. 'model:' .. model.name, ARGV[2])
  end
end
if #conflicts > 0 then
  count('waited', run.task)
end
for _, one in ipairs(conflicts) do
  local other = one.other or {}
  count('pairs', cjson.encode({one.model, run.task, other.task or ''}))
  call('LPUSH', P .. 'examples', cjson.encode({
    model = one.model, at = now, job = run.job, task = run.task, worker = run.worker,
    other_job = other.job, other_task = other.task, other_worker = other.worker, other_at = other.at and math.floor(other.at / 1000),
  }))
end
call('LTRIM', P .. 'examples', 0, ARGV[4] - 1)
for _, name in ipairs({'since', 'runs', 'waited', 'pairs', 'examples'}) do
  call('PEXPIRE', P .. name, ARGV[3])
end
if #conflicts > 0 then
  return {'conflict', exactly}
end
return {relative and 'relative' or 'free', exactly}
