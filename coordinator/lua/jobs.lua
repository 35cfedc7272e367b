-- Jobs: reading them, and the one function that changes their state.

local FINAL = {completed = true, failed = true, unprocessable = true, canceled = true}

local function read(id)
  local raw = call('HGETALL', P .. 'job:' .. id)
  if #raw == 0 then
    return nil
  end
  local job = {id = id}
  for i = 1, #raw, 2 do
    job[raw[i]] = raw[i + 1]
  end
  return job
end

local function emit(verb, id, version, data)
  -- With its epoch: one that is read while the ledger is wiped must not be taken for one of the next.
  call('XADD', P .. 'events', '*', 'epoch', epoch, 'verb', verb, 'job', id, 'version', version, 'at', now,
    'data', cjson.encode(data))
end

-- Moves a job to a state, changes the given fields with it and writes the event, in one step.
-- A field set to false is removed.
local function move(job, verb, state, changes, data)
  job.version = text((tonumber(job.version) or 0) + 1)
  if job.state ~= state then
    if job.state then
      call('HINCRBY', P .. 'counts', job.queue .. '|' .. job.state, -1)
    end
    call('HINCRBY', P .. 'counts', job.queue .. '|' .. state, 1)
    job.state = state
  end
  local set, gone = {'state', state, 'version', job.version}, {}
  for name, value in pairs(changes) do
    if value == false then
      gone[#gone + 1] = name
      job[name] = nil
    else
      set[#set + 1] = name
      set[#set + 1] = value
      job[name] = tostring(value)
    end
  end
  call('HSET', P .. 'job:' .. job.id, unpack(set))
  if #gone > 0 then
    call('HDEL', P .. 'job:' .. job.id, unpack(gone))
  end
  data.state = state
  emit(verb, job.id, job.version, data)
  if FINAL[state] then
    -- A tombstone: until the store has the end of the job, the ledger remembers it, so that nobody
    -- takes the accepted row for a job that was lost and runs it again.
    call('ZADD', P .. 'tombstones', now, job.id)
    call('DEL', P .. 'message:' .. job.id)
    call('ZREM', P .. 'expiring', job.id)
  end
end

-- Whatever the order of arrival and the steps of the clock, sequences only grow.
local function next_sequence()
  local last = tonumber(call('HGET', P .. 'meta', 'sequence')) or 0
  local sequence = math.max(now_us, last + 1)
  call('HSET', P .. 'meta', 'sequence', text(sequence))
  return sequence
end
