-- Brings a job that has ended without success back to waiting, behind those that wait.
-- Guarantee: of two resubmissions of one end only one is taken.
--
-- ARGV[2..] as for `submit` of one job: id, class, needs, priority, org, owner, task, due ms (not used), expires ms,
--           max_retries, retries, message; then attempts, losses; state, epoch, version as the store has them;
--           row (JSON when the definition changed, else ""), by, reason, nonce of this call
-- Answers {answer = done | active | ended, state}
local id, nonce = ARGV[2], ARGV[22]
local job, refused = ended_job(id, ARGV[16], ARGV[17], ARGV[18])
if not job then
  -- The same call again: its reply was lost.
  local again = call('HGET', P .. 'job:' .. id, 'resubmitted') == nonce
  return cjson.encode(again and {answer = 'done', state = refused.state} or refused)
elseif job.was == 'completed' then
  return cjson.encode({answer = 'ended', state = job.was})
end
clear(job)
local needs = {needs = ARGV[4], priority = ARGV[5], org = ARGV[6], owner = ARGV[7]}
job.queue, job.class, job.task = needs.needs:match('queue:(%S+)$'), ARGV[3], ARGV[8]
job.sequence = next_sequence()
local fields = {queue = job.queue, class = job.class, task = job.task, sequence = job.sequence,
  max_retries = ARGV[11], resubmitted = nonce}
for name, value in pairs({retries = ARGV[12], attempts = ARGV[14], losses = ARGV[15]}) do
  if value ~= '0' then fields[name] = value end
end
if needs.owner ~= '' then fields.owner = needs.owner end
if job.ended and job.ended ~= '' then fields.ended = job.ended end
local expires = tonumber(ARGV[10])
if expires > 0 then
  fields.expires = text(expires)
  call('ZADD', P .. 'expiring', expires, id)
end
keep_message(id, ARGV[13])
local data = {sequence = job.sequence, by = ARGV[20], reason = ARGV[21]}
if ARGV[19] ~= '' then
  data.row = ARGV[19]
end
move(job, 'resubmitted', 'waiting', fields, data)
local resource, code, class = enqueue(job, needs)
if resource then
  emit('blocked', id, job.version, blockers(job, class, resource, code, true))
end
continue_wakes()
return cjson.encode({answer = 'done', state = resource and 'waiting' or 'dispatched'})
