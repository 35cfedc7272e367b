-- Accepts jobs: each starts at once if all its resources are free, else it waits in its class.
-- Guarantee: submitting the same id again changes nothing; all jobs of a call are taken in one step.
--
-- ARGV[2] "1" when they must be taken although Redis is nearly full: a running job's chain goes on
-- ARGV[3] the clock of who says due and expiry times (ms; "" unknown)
-- ARGV[4..] per job: id, class, needs (joined by spaces), priority, org, owner, task, due ms (0 now),
--           expires ms (0 never), max_retries, retries, message, row (JSON for the recorder, or ""; "entered"
--           when the reaper found it in the store, whose producer may still be about to submit it)
-- Answers a list: {state, resource, code, holders, position} or {known = state}; in order. Or, nothing being
-- taken, {refused = 'memory', used, allowed}
local full = ARGV[2] ~= '1' and meta[5]
if full then
  local said = cjson.decode(full)
  if said.until_ms > now then
    return cjson.encode({refused = 'memory', used = said.used, allowed = said.allowed})
  end
end
local answers = {}
local theirs = tonumber(ARGV[3])
for i = 4, #ARGV, 13 do
  local id, queue = ARGV[i], ARGV[i + 2]:match('queue:(%S+)$')
  local old = read(id)
  if old and not old.replaced then
    local running = old.state == 'running' or old.state == 'stopping'
    -- The same again: its reply was lost, or the reaper was quicker than the producer.
    local again = ARGV[i + 12] == 'entered' or running and message_of(id) == ARGV[i + 11]
    if running and not again then
      -- Perhaps the end of a canvas that replaced this run, quicker than the run itself: kept for its end.
      set(old, {next_of = old.token, next = cjson.encode({class = ARGV[i + 1],
        needs = ARGV[i + 2], priority = ARGV[i + 3], org = ARGV[i + 4], owner = ARGV[i + 5],
        task = ARGV[i + 6], due_ms = tonumber(ARGV[i + 7]), expires_ms = tonumber(ARGV[i + 8]), clock_ms = theirs,
        max_retries = ARGV[i + 9], retries = ARGV[i + 10], message = ARGV[i + 11],
        row = ARGV[i + 12] ~= '' and ARGV[i + 12] or nil})})
    end
    answers[#answers + 1] = {known = old.state}
  else
    local job = {id = id, queue = queue, class = ARGV[i + 1], task = ARGV[i + 6],
      sequence = next_sequence()}
    if old then
      -- The task was replaced by a canvas that ends in this id: a new life of the same job.
      job.version = old.version
      call('ZREM', P .. 'tombstones', id)
      count(old.queue, old.state, -1)
      forget(id)
    end
    local needs = {needs = ARGV[i + 2], priority = ARGV[i + 3], org = ARGV[i + 4], owner = ARGV[i + 5]}
    local due, expires = by_redis(tonumber(ARGV[i + 7]), theirs), by_redis(tonumber(ARGV[i + 8]), theirs)
    local fields = {queue = queue, class = job.class, task = job.task, sequence = job.sequence,
      max_retries = ARGV[i + 9]}
    -- The end of the run that was replaced may be said again.
    if old then fields.ended = old.ended end
    if ARGV[i + 10] ~= '0' then fields.retries = ARGV[i + 10] end
    if needs.owner ~= '' then fields.owner = needs.owner end
    if expires > 0 then
      fields.expires = text(expires)
      call('ZADD', P .. 'expiring', expires, id)
    end
    local data = {sequence = job.sequence}
    if ARGV[i + 12] == 'entered' then
      fields.entered = 1
    elseif ARGV[i + 12] ~= '' then
      data.row = ARGV[i + 12]
    end
    keep_message(id, ARGV[i + 11])
    if due > now then
      data.due_ms = due
      fields.due, fields.needs, fields.priority, fields.org = text(due), needs.needs, needs.priority, needs.org
      move(job, 'submitted', 'delayed', fields, data)
      call('ZADD', P .. 'delayed', due, id)
      answers[#answers + 1] = {state = 'delayed'}
    else
      move(job, 'submitted', 'waiting', fields, data)
      local resource, code, class = enqueue(job, needs, nil, ARGV[i + 11])
      if resource then
        local answer = blockers(job, class, resource, code, true)
        emit('blocked', id, job.version, answer)
        answer.state = 'waiting'
        answers[#answers + 1] = answer
      else
        answers[#answers + 1] = {state = 'dispatched'}
      end
    end
  end
end
continue_wakes()
return cjson.encode(answers)
