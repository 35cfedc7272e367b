-- Jobs that have ended and that a person moves once more. The ledger has forgotten most of them, so the caller
-- brings what the store knows; what the ledger still knows counts more, for the store may be behind.

-- Returns the job, ready for `move`, or nil and the answer of the refusal. Changes nothing.
local function ended_job(id, state, stored_epoch, version)
  local old = read(id)
  if old and not FINAL[old.state] then
    return nil, {answer = 'active', state = old.state}
  end
  local job = {id = id, version = stored_epoch == epoch and version or '0', was = old and old.state or state,
    old = old, ended = old and old.ended}
  if old and tonumber(old.version) > tonumber(job.version) then
    job.version = old.version
  end
  return job
end

-- Takes away what is left of its end: the tombstone, which is counted, or the trace, which is not.
local function clear(job)
  if call('ZREM', P .. 'tombstones', job.id) == 1 then
    count(job.old.queue, job.old.state, -1)
  end
  forget(job.id)
  job.old, job.was = nil, nil
end

return ended_job, clear
