-- Postpones pending jobs: what waits, is dispatched or would be due earlier is delayed until a moment.
--
-- ARGV[2..] until ms, reason, by, then job ids (some dozens: this is one step)
-- Answers a list, one per id: done, or the state of a job that is not pending ("gone" when it is not known),
-- or "later" when it is due later anyway
local until_ms, reason, by = math.max(tonumber(ARGV[2]), now + 1), ARGV[3], ARGV[4]
local answers = {}
for i = 5, #ARGV do
  local job = read(ARGV[i])
  local answer = 'done'
  local data = {reason = reason, by = by, due_ms = until_ms}
  if not job then
    answer = 'gone'
  elseif job.state == 'waiting' then
    local class = class_read(job.class)
    withdraw(job)
    move(job, 'drained', 'delayed', {due = text(until_ms), needs = table.concat(class.needs, ' '),
      priority = class.priority, org = class.org}, data)
    call('ZADD', P .. 'delayed', until_ms, job.id)
  elseif job.state == 'dispatched' then
    recall(job)
    requeue(job, 'drained', {}, data, until_ms)
  elseif job.state == 'delayed' then
    if tonumber(job.due) < until_ms then
      move(job, 'drained', 'delayed', {due = text(until_ms), delay = false}, data)
      call('ZADD', P .. 'delayed', until_ms, job.id)
    elseif tonumber(job.due) > until_ms then
      answer = 'later'
    end
  else
    answer = job.state
  end
  answers[#answers + 1] = answer
end
continue_wakes()
return cjson.encode(answers)
