-- Extends the lease of a worker and with it all its jobs; registers it when it is new.
-- Guarantee: a worker that has been told "expired" has lost all its jobs; it may register again only
-- after they are dead.
--
-- ARGV[2..] worker, register ("1" when it starts or has ended all its jobs), slots, busy (slots taken by
--           work the ledger does not know), queues (sorted, joined by ","), report (JSON, kept for people),
--           then pairs job id, token of what it has in hand
-- Answers {answer = ok | expired, stop = {id = kind}, lost = ids, lease_ms}
local worker, register, slots, busy, queues = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local key, lease = P .. 'worker:' .. worker, default('lease_ms', 30000)
local known = call('HMGET', key, 'pool', 'slots', 'busy')
if not known[1] and register ~= '1' then
  return cjson.encode({answer = 'expired'})
end
local before = known[1] and tonumber(known[2]) - tonumber(known[3]) or 0
if known[1] and known[1] ~= queues then
  -- It consumes other queues now: it moves to another pool with its running jobs.
  call('HINCRBY', P .. 'pools', known[1], -before)
  if call('HINCRBY', P .. 'pool_workers', known[1], -1) <= 0 then
    call('HDEL', P .. 'pools', known[1])
    call('HDEL', P .. 'pool_workers', known[1])
  end
  for _, id in ipairs(call('SMEMBERS', key .. ':jobs')) do
    call('SMOVE', P .. 'running:' .. known[1], P .. 'running:' .. queues, id)
    call('HSET', P .. 'job:' .. id, 'pool', queues)
  end
end
local joins = known[1] ~= queues
if not known[1] then
  call('HSET', key, 'since', text(now), 'assigned', 0, 'completed', 0, 'failed', 0)
  emit('worker_joined', '', 0, {worker = worker, queues = queues, slots = slots})
end
if joins then
  call('HINCRBY', P .. 'pool_workers', queues, 1)
  before = 0
end
local after = slots - busy
if after ~= before or joins then
  call('HINCRBY', P .. 'pools', queues, after - before)
end
call('HSET', key, 'pool', queues, 'slots', slots, 'busy', busy, 'seen', text(now), 'report', ARGV[7])
call('ZADD', P .. 'workers', now + lease, worker)

local stop, lost, has = {}, {}, false
for i = 8, #ARGV, 2 do
  local id, token = ARGV[i], ARGV[i + 1]
  local job = read(id)
  if not job or job.token ~= token or (job.worker and job.worker ~= worker) then
    if not (job and job.ended == token) then
      lost[#lost + 1] = id
    end
  elseif job.state == 'stopping' then
    stop[id], has = job.stop, true
  elseif job.state == 'dispatched' then
    -- In a worker's hand but not begun (a rate limit, say): not lost.
    call('ZADD', P .. 'dispatched', now + default('claim_ms', 30000), id)
  end
end
if after > before then
  local woken = {}
  for _, queue in ipairs(split(queues, ',')) do
    woken[#woken + 1] = 'queue:' .. queue
  end
  wake(woken)
end
return cjson.encode({answer = 'ok', stop = has and stop or nil, lost = #lost > 0 and lost or nil,
  lease_ms = lease, open = open})
