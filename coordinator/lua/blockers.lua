-- What stops a waiting job: the resource, the code, up to three holders and its position there.
-- Counting is bounded: on a queue all that wait there count, and beyond 50 classes on one resource only
-- those of the own class.
local function blockers(job, resource, code)
  local answer = {resource = resource, code = code}
  local holders = call('SRANDMEMBER', P .. 'holders:' .. resource, 3)
  if #holders > 0 then
    answer.holders = holders
  end
  if resource:match('^queue:') or resource == 'serial' then
    -- Everything on the queue waits there: its count is the position.
    answer.position = math.max(1, tonumber(call('HGET', P .. 'counts', job.queue .. '|waiting')) or 1)
    return answer
  end
  local position, looked = 0, 0
  local lanes = call('ZRANGE', P .. 'lanes:' .. resource, 0, 49)
  for _, lane in ipairs(lanes) do
    for _, class in ipairs(call('ZRANGE', P .. 'parked:' .. resource .. '|' .. lane, 0, 49)) do
      looked = looked + 1
      if looked <= 50 or class == job.class then
        position = position + call('ZCOUNT', P .. 'class:' .. class, '-inf', job.sequence)
      end
    end
  end
  answer.position = math.max(position, 1)
  return answer
end
