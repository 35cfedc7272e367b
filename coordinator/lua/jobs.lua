-- Jobs: reading them, and the one function that changes their state. What a script changes of jobs, counts and
-- numbers is kept until its end and written once: a command costs more than all that Lua does between two.

local FINAL = {completed = true, failed = true, unprocessable = true, canceled = true}

local jobs, changed = {}, {}   -- what this script has read; fields that it has changed, by job
local counted = {}             -- "<queue>|<state>" -> change of the number of jobs
local numbers = {}             -- numbers of meta that it has drawn
local leaving = {}             -- owners of which a job has ended

-- What the parts of one script change for each other.
local this = {
  steps = 0,               -- needs it has gone through: a job of 64 models costs as much as twenty of one
  taken = 0,               -- jobs of lost workers that it has taken back
  places = {},             -- what blockers.lua has counted, until somebody's turn changes it
  reservation = nil,       -- see capacity.lua
  let_go = nil,            -- gives back what those hold that have no job left; see ending.lua
  send_back = nil,         -- takes back a job that stands by; see ending.lua
}

-- Returns the job as this script leaves it, or nil.
local function read(id)
  local job = jobs[id]
  if job == nil then
    local raw = call('HGETALL', P .. 'job:' .. id)
    job = #raw > 0 and {id = id}
    for i = 1, #raw, 2 do
      job[raw[i]] = raw[i + 1]
    end
    jobs[id] = job
  end
  return job or nil
end

-- Changes fields of a job; false removes one.
local function set(job, fields)
  local all = changed[job.id]
  if not all then
    all = {}
    changed[job.id] = all
  end
  jobs[job.id] = job
  for name, value in pairs(fields) do
    all[name] = value
    if value == false then
      job[name] = nil
    else
      job[name] = tostring(value)
    end
  end
end

-- Forgets all that is kept of a job under its id; a new life of it may follow.
local function forget(id)
  call('DEL', P .. 'job:' .. id)
  jobs[id], changed[id] = nil, nil
end

local function replaced(message, old, new)
  local pieces, from = {}, 1
  while true do
    local first, last = message:find(old, from, true)
    if not first then break end
    pieces[#pieces + 1] = message:sub(from, first - 1)
    from = last + 1
  end
  pieces[#pieces + 1] = message:sub(from)
  return table.concat(pieces, new)
end

-- Its id is in its message several times. For each of them a character is kept that no JSON has: of a million
-- waiting jobs that are a hundred million bytes.
local function keep_message(id, message)
  call('SET', P .. 'message:' .. id, replaced(message, id, '\1'))
end

-- Returns the message of a job that has not ended, or false.
local function message_of(id)
  local kept = call('GET', P .. 'message:' .. id)
  return kept and replaced(kept, '\1', id)
end

-- A moment (ms, 0 for none) that somebody said whose clock was at `theirs` at that, by Redis's. A retry in four seconds
-- by a worker whose clock is an hour ahead would else wait for an hour. What asking takes is no difference.
local function by_redis(moment, theirs)
  local ahead = theirs and theirs - (clock[1] * 1000 + clock[2] / 1000) or 0
  if moment == 0 or math.abs(ahead) <= 2000 then
    return moment
  end
  return math.max(1, math.floor(moment - ahead))
end

local function count(queue, state, change)
  local name = queue .. '|' .. state
  counted[name] = (counted[name] or 0) + change
end

-- Forgets a job whose end the store has, but for a trace: a producer that lost the reply repeats its submission, and
-- one that was overtaken by the reaper or a restore makes it at last, when the job may be over.
local function leave_trace(id, job, seconds)
  local trace = {'state', job.state, 'version', job.version, 'queue', job.queue, 'ended', job.ended or ''}
  if job.canceled_in then
    trace[#trace + 1], trace[#trace + 2] = 'canceled_in', job.canceled_in
  end
  count(job.queue, job.state, -1)
  forget(id)
  call('HSET', P .. 'job:' .. id, unpack(trace))
  call('EXPIRE', P .. 'job:' .. id, seconds)
end

local function write()
  for id, fields in pairs(changed) do
    local kept, gone = {}, {}
    for name, value in pairs(fields) do
      if value == false then
        gone[#gone + 1] = name
      else
        kept[#kept + 1] = name
        kept[#kept + 1] = value
      end
    end
    if #kept > 0 then
      call('HSET', P .. 'job:' .. id, unpack(kept))
    end
    if #gone > 0 then
      call('HDEL', P .. 'job:' .. id, unpack(gone))
    end
  end
  for name, change in pairs(counted) do
    if change ~= 0 then
      call('HINCRBY', P .. 'counts', name, change)
    end
  end
  local drawn = {}
  for name, number in pairs(numbers) do
    drawn[#drawn + 1] = name
    drawn[#drawn + 1] = number
  end
  if #drawn > 0 then
    call('HSET', P .. 'meta', unpack(drawn))
  end
end

-- The last thing of every script, wherever it returned.
local function last()
  if this.let_go and next(leaving) then
    this.let_go()
  end
  write()
end

local function emit(verb, id, version, data)
  local row = data.row
  data.row = nil
  -- With its epoch: one that is read while the ledger is wiped must not be taken for one of the next.
  if row then
    -- A definition goes beside the data, its message as it is: encoded in it they would double in length.
    call('XADD', P .. 'events', '*', 'epoch', epoch, 'verb', verb, 'job', id, 'version', version, 'at', now,
      'data', cjson.encode(data), 'row', row, 'message', message_of(id))
  else
    call('XADD', P .. 'events', '*', 'epoch', epoch, 'verb', verb, 'job', id, 'version', version, 'at', now,
      'data', cjson.encode(data))
  end
end

-- Counts a job among the unfinished ones of its owner, who keeps what it holds as long as there are any.
local function join(job)
  if job.owner then
    call('SADD', P .. 'members:' .. job.owner, job.id)
  end
end

-- Moves a job to a state, changes the given fields with it and writes the event, in one step.
local function move(job, verb, state, changes, data)
  local new = not job.state
  if job.state ~= state then
    if job.state then
      count(job.queue, job.state, -1)
    end
    count(job.queue, state, 1)
  end
  changes.state, changes.version = state, text((tonumber(job.version) or 0) + 1)
  set(job, changes)
  data.state = state
  emit(verb, job.id, job.version, data)
  if new then
    join(job)
  end
  if FINAL[state] then
    if job.owner then
      call('SREM', P .. 'members:' .. job.owner, job.id)
      leaving[job.owner] = true
    end
    -- A tombstone: until the store has the end of the job, the ledger remembers it, so that nobody
    -- takes the accepted row for a job that was lost and runs it again.
    call('ZADD', P .. 'tombstones', now, job.id)
    call('DEL', P .. 'message:' .. job.id)
    if job.expires then
      call('ZREM', P .. 'expiring', job.id)
    end
  end
end

-- The next of the numbers that are kept in meta.
local function draw(place, name, least)
  local number = text(math.max(least, (tonumber(meta[place]) or 0) + 1))
  numbers[name], meta[place] = number, number
  return number
end

-- Whatever the order of arrival and the steps of the clock, sequences only grow.
local function next_sequence()
  return draw(6, 'sequence', now_us)
end

local function next_token()
  return draw(7, 'token', 0)
end

return FINAL, this, leaving, counted, read, set, forget, keep_message, message_of, by_redis, count,
  leave_trace, last, emit, join, move, next_sequence, next_token
