-- Standing by: the next job for a model waits in a process of a worker while a short one runs, so that it begins as
-- soon as that ends, and not after the way of a message through broker and worker. It has all that it needs but
-- the one unit, and whatever happens to a dispatched job happens to it as well.

-- Seconds for which a process may stand by: a job that was thought to be short must not keep it idle.
local STANDBY = 0.2

-- Whether a worker has a lease, and had registered at a moment.
local function lives(worker, moment)
  local since = call('HGET', P .. 'worker:' .. worker, 'since')
  return (tonumber(call('ZSCORE', P .. 'workers', worker)) or 0) > now and (tonumber(since) or 0) <= tonumber(moment)
end

local granted = {}         -- jobs that began in this step

-- Gives a unit that came back to the job that stands by for it, which begins. Returns its id, or nil.
local function call_up(resource)
  local id = is_there('standby') and call('HGET', P .. 'standby', resource)
  local job = id and read(id)
  if not job or held(resource) or size('holders:' .. resource) >= (limit_of(resource) or math.huge) then
    return nil
  end
  local knocked = job.knocked
  if knocked and not lives(knocked, job.knocked_at) then
    -- It stood by in a worker that is gone.
    this.send_back(job, 'its worker is gone')
    return nil
  end
  for _, need in ipairs(is_there('holds') and split(job.needs) or {}) do
    if held(need) then
      this.send_back(job, 'held')
      return nil
    end
  end
  stand_down(job)
  take(resource, id, '')
  set(job, {held = job.held .. ' ' .. resource})
  if knocked then
    call('LPUSH', P .. 'turn:' .. job.token, (start(job, knocked, job.nonce)))
    call('PEXPIRE', P .. 'turn:' .. job.token, 5000)
    granted[#granted + 1] = id
  end
  return id
end

return STANDBY, granted, call_up
