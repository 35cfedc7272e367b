-- Extends the lease of a worker and with it all its jobs; registers it when it is new.
-- Guarantee: a worker that has been told "expired" has lost all its jobs; it may register again only
-- after they are dead.
--
-- ARGV[2..] worker, register ("1" when it starts or has ended all its jobs), slots, busy (slots taken by
--           work the ledger does not know), queues (sorted, joined by spaces), report (JSON, kept for people),
--           then job id, token, "1" or "" (certainly not begun) of what it has in hand
-- Answers {answer = ok | expired, stop = {id = kind}, lost = ids, lease_ms, silent = {id = ms without a sign
-- of life, from a second on}, unfetched = messages that nobody has fetched from its queues, workers = how many there are}
local worker, register, slots, busy, queues = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local key, lease = P .. 'worker:' .. worker, default('lease_ms', 30000)
call('HDEL', key, 'stretched')
local known = call('HMGET', key, 'pool', 'slots', 'busy', 'gone')
if known[4] and not expire_worker(worker, known[4]) then
  -- Its earlier jobs are not all taken back yet.
  return cjson.encode({answer = 'expired'})
end
-- After a restore the ledger knows of a worker only what the store did, and the worker does not know of the
-- restore: what it says now is how the ledger learns what runs.
local restored = open == '0'
if not known[1] and register ~= '1' and not restored then
  return cjson.encode({answer = 'expired'})
end
local joins, woken = known[1] ~= queues, split(queues)
local before, after = known[1] and room(known[2], known[3]) or 0, room(slots, busy)
if not known[1] then
  call('HSET', key, 'since', text(now), 'assigned', 0, 'completed', 0, 'failed', 0)
  emit('worker_joined', '', 0, {worker = worker, queues = queues, slots = slots})
elseif joins then
  -- It consumes other queues now: it moves to another pool with its running jobs.
  change_pool(known[1], -before, -1)
  for _, queue in ipairs(split(known[1])) do
    woken[#woken + 1] = queue
  end
end
if joins then
  change_pool(queues, after, 1)
elseif after ~= before then
  change_pool(queues, after - before, 0)
end
call('HSET', key, 'pool', queues, 'slots', slots, 'busy', busy, 'seen', text(now), 'report', ARGV[7])
call('ZADD', P .. 'workers', now + lease, worker)

for _, id in ipairs(joins and call('SMEMBERS', key .. ':jobs') or {}) do
  if known[1] then
    remove('running:' .. known[1], id)
  end
  local job = read(id)
  if job then
    add('running:' .. queues, id)
    set(job, {pool = queues})
  else
    -- Of a damaged ledger: an error here would cost the worker its lease, and all its jobs with it.
    call('SREM', key .. ':jobs', id)
  end
end

-- Makes what the worker has in hand running again, if no later run is known.
local function adopt(job, token)
  if job.state == 'waiting' then
    withdraw(job)
  elseif job.state == 'delayed' then
    call('ZREM', P .. 'delayed', job.id)
  end
  local needs = job.adopt or job.needs
  local mine = {}
  for resource in needs:gmatch('%S+') do
    if take(resource, job.id, job.owner or '') then
      mine[#mine + 1] = resource
    end
  end
  call('SADD', key .. ':jobs', job.id)
  add('running:' .. queues, job.id)
  move(job, 'restored', 'running', {held = table.concat(mine, ' '), needs = needs, worker = worker, token = token, nonce = '',
    pool = queues, started = text(now), due = false,
    attempts = math.max(1, tonumber(job.attempts) or 0)}, {worker = worker, token = token,
    attempts = math.max(1, tonumber(job.attempts) or 0)})
end

local stop, has, strange, hand = {}, false, {}, {}
local silent, quiet, uncertain = {}, false, false
for i = 8, #ARGV, 3 do
  local id, token, begun = ARGV[i], ARGV[i + 1], ARGV[i + 2] == '1'
  local job = read(id)
  if restored and not begun then
    -- Its process ends that within a moment, or begins it this very moment, and then the next renewal says so.
    uncertain = true
  elseif restored and job and job.state == 'running' and tonumber(token) > tonumber(job.token) then
    -- The store knows an earlier run, which is over since.
    leave_worker(job)
    adopt(job, token)
    hand[id] = true
  elseif restored and job and (job.state == 'waiting' or job.state == 'delayed')
    and tonumber(token) > (tonumber(job.token) or 0) then
    local class = job.state == 'waiting' and class_read(job.class)
    job.adopt = class and table.concat(class.needs, ' ') or job.needs
    local priority, org = class and class.priority or job.priority, class and class.org or job.org
    adopt(job, token)
    set(job, {priority = priority, org = org})
    hand[id] = true
  elseif not job or job.token ~= token or (job.worker and job.worker ~= worker)
    or job.state == 'waiting' or job.state == 'delayed' then
    -- Also one that was taken back: this delivery will not be claimed any more.
    if not (job and job.ended == token) then
      strange[#strange + 1] = id
    end
  else
    hand[id] = true
    local silence = job.state == 'running' and now - math.max(tonumber(job.started), tonumber(job.progressed) or 0) or 0
    if silence >= 1000 then
      silent[id], quiet = silence, true
    end
    if job.state == 'stopping' then
      stop[id], has = job.stop, true
    elseif job.state == 'dispatched' then
      -- In a worker's hand but not begun (a rate limit, say): not lost.
      call('ZADD', P .. 'dispatched:' .. job.queue, now + default('claim_ms', 30000), id)
    end
  end
end
local lost = {}
for _, id in ipairs(strange) do
  -- Jobs are told by id alone: not one of which the worker has a later delivery as well.
  if not hand[id] then
    lost[#lost + 1] = id
  end
end
if not uncertain then
  call('SREM', P .. 'awaited', worker)
end
for _, id in ipairs(call('SMEMBERS', key .. ':jobs')) do
  if not hand[id] and this.taken < PIECE and this.steps < BUDGET then
    local job = read(id)
    if job and now - tonumber(job.started) > lease then
      -- Claimed, but the worker never learned it, or its end was never told. A list of what it has in hand
      -- that is older than a lease cannot be: its jobs would be dead. The next renewal goes on.
      this.taken = this.taken + 1
      lose(job, 'its worker does not know it')
    end
  end
end
if joins or after > before then
  for i, queue in ipairs(woken) do
    woken[i] = 'queue:' .. queue
  end
  wake(woken)
end
local unfetched = 0
for _, queue in ipairs(split(queues)) do
  unfetched = unfetched + call('LLEN', queue)
end
return cjson.encode({answer = 'ok', stop = has and stop or nil, lost = #lost > 0 and lost or nil,
  lease_ms = lease, open = open, workers = call('ZCARD', P .. 'workers'), silent = quiet and silent or nil, unfetched = unfetched})
