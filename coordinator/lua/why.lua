-- What stops a waiting job now; changes nothing.
--
-- ARGV[2] job id
-- Answers {resource, code, holders, position, needs} or {answer = none} when it does not wait
local job = read(ARGV[2])
if not job or job.state ~= 'waiting' then
  return cjson.encode({answer = 'none'})
end
local class = class_read(job.class)
local stop, code
for _, resource in ipairs(class.needs) do
  code = obstacle(resource, class, job.task)
  if code then
    stop = resource
    break
  end
end
if open ~= '1' then
  code = 'restoring'
end
local answer = blockers(job, stop or class.parked, code or 'turn')
answer.needs = class.needs
return cjson.encode(answer)
