-- Who stands by next.

-- Brings the next job for each model that this one holds to a process, if there is one with nothing else to do.
local function bring_next(job)
  local free = open == '1' and short(job.task) and is_there('blocked') and window(job.queue) or 0
  for _, resource in ipairs(free > 0 and split(job.held) or {}) do
    local candidate = is_kept(resource) and limit_of(resource) == 1 and not is_pending(resource)
      and not (is_there('standby') and call('HEXISTS', P .. 'standby', resource) == 1) and next_of(resource)
    local class = candidate and class_read(candidate.class)
    local head = class and class.owner == '' and call('ZRANGE', P .. 'class:' .. class.id, 0, 1, 'WITHSCORES') or {}
    local following = head[1] and read(head[1])
    local able = following and not kept(resource, class, following.task)
    for _, need in ipairs(able and class.needs or {}) do
      local queue = need:match('^queue:(.*)$')
      if (need ~= resource and obstacle(need, class, following.task))
        or (queue and (window(queue) <= 0 or lanes_on(need) > 0)) then
        able = false
        break
      end
    end
    if able then
      call('ZREM', P .. 'class:' .. class.id, following.id)
      admit(class, following, nil, resource)
      if head[3] then
        park(class, resource, head[4])
      else
        drop(class)
      end
      free = free - 1
    end
  end
end

return bring_next
