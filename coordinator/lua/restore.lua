-- Enters unfinished jobs as the store knows them, at their old places. Nobody is admitted; a running job
-- gets its units back and its worker one lease to say that it still runs it.
--
-- ARGV[2..] epoch, jobs entered with these, jobs there are to enter (both for people), then per job: id, class,
--           needs, priority, org, owner, task, due ms, expires ms, max_retries, retries, message, sequence,
--           attempts, losses, state, worker, token, how a stopping run is to end (JSON: kind, reason, by; "" unknown)
--           The state of a job whose end the store could not record is the verb of that end.
-- A job that is where the store has it already needs no event: a hundred thousand of them would keep the recorder
-- busy for seconds. The first that something happens to has the version after this one.
local function place(job, state, fields, data, before)
  if state ~= before then
    return move(job, 'restored', state, fields, data)
  end
  count(job.queue, state, 1)
  fields.state, fields.version = state, '1'
  set(job, fields)
  join(job)
end

-- A tombstone alone for a job that is over although its row says otherwise, or it would run again.
local function bury(job, verb, max_retries, token)
  local state = verb == 'replaced' and 'completed' or verb
  count(job.queue, state, 1)
  set(job, {queue = job.queue, class = job.class, task = job.task, sequence = job.sequence,
    max_retries = max_retries, state = state, version = '1', ended = token, replaced = verb == 'replaced' and 1 or nil})
  call('ZADD', P .. 'tombstones', now, job.id)
end

call('HSET', P .. 'meta', 'restored', ARGV[3], 'restorable', ARGV[4])
for i = 5, #ARGV, 19 do
  local id, needs, state = ARGV[i], ARGV[i + 2], ARGV[i + 15]
  local queue = needs:match('queue:(%S+)$')
  local job = {id = id, queue = queue, class = ARGV[i + 1], task = ARGV[i + 6], sequence = ARGV[i + 12]}
  if call('EXISTS', P .. 'job:' .. id) == 1 then
    -- Entered before: the reply was lost.
  elseif FINAL[state] or state == 'replaced' then
    bury(job, state, ARGV[i + 9], ARGV[i + 17])
  else
    local due, expires = tonumber(ARGV[i + 7]), tonumber(ARGV[i + 8])
    local fields = {queue = queue, class = job.class, task = job.task, sequence = job.sequence,
      max_retries = ARGV[i + 9], retries = ARGV[i + 10], attempts = ARGV[i + 13], losses = ARGV[i + 14],
      owner = ARGV[i + 5]}
    for _, name in ipairs({'retries', 'attempts', 'losses', 'owner'}) do
      if fields[name] == '0' or fields[name] == '' then fields[name] = nil end
    end
    local described = {needs = needs, priority = ARGV[i + 3], org = ARGV[i + 4], owner = ARGV[i + 5]}
    keep_message(id, ARGV[i + 11])
    if expires > 0 then
      fields.expires = text(expires)
      call('ZADD', P .. 'expiring', expires, id)
    end
    call('SADD', P .. 'restored', 'queue:' .. queue)
    local data = {sequence = job.sequence}
    -- What the store does not know comes from the hands of the workers, but only a later run than the last it
    -- knows: a worker may still have one in hand that ended a moment ago. A recorded dispatch is not begun yet.
    local last = (tonumber(ARGV[i + 17]) or 0) - (state == 'dispatched' and 1 or 0)
    if last > 0 then
      fields.token = text(last)
    end
    -- Its producer may have been caught before it told the ledger, and may tell it when the job is long over.
    fields.entered = 1
    if state == 'running' or state == 'stopping' then
      local worker, token = ARGV[i + 16], ARGV[i + 17]
      local mine = {}
      for resource in needs:gmatch('%S+') do
        if take(resource, id, described.owner) then
          mine[#mine + 1] = resource
        end
      end
      fields.held, fields.needs = table.concat(mine, ' '), needs
      fields.priority, fields.org = described.priority, described.org
      fields.worker, fields.token, fields.nonce, fields.started = worker, token, '', text(now)
      if state == 'stopping' then
        -- Unknown, it is released: one that was to be canceled runs once more, but none is lost.
        local stop = ARGV[i + 18] ~= '' and cjson.decode(ARGV[i + 18])
          or {'release', 'told to stop before the restore', 'coordinator'}
        fields.stop, fields.stop_reason, fields.stop_by = unpack(stop)
      end
      call('SADD', P .. 'worker:' .. worker .. ':jobs', id)
      call('ZADD', P .. 'workers', 'NX', now + default('lease_ms', 30000), worker)
      data.token, data.worker, data.attempts = token, worker, tonumber(ARGV[i + 13])
      move(job, 'restored', state, fields, data)
    elseif due > now then
      fields.due, fields.needs, fields.priority, fields.org = text(due), needs, described.priority, described.org
      place(job, 'delayed', fields, data, state)
      call('ZADD', P .. 'delayed', due, id)
    else
      place(job, 'waiting', fields, data, state)
      enqueue(job, described)
    end
  end
end
return cjson.encode({answer = 'ok'})
