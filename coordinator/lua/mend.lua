-- Mends what the reaper found to differ between ledger, store and workers. Each case is looked at once more here:
-- whoever it concerns may have moved on since.
--
-- ARGV[2..] units, resource, ids: units held by jobs that do not hold them
--           owners, names: those that hold something and have no unfinished job
--           orphans, ids: running jobs whose worker has no lease
--           ended, pairs id, version: ends of which the store knows nothing and no event is left
--           recorded, pairs id, version: ends that the store has, still remembered here
-- Answers {answer = ok, mended = ids}
local kind, first, pair = ARGV[2], ARGV[2] == 'units' and 4 or 3, ARGV[2] == 'ended' or ARGV[2] == 'recorded'
local mended, resource = {}, kind == 'units' and ARGV[3] or nil
local back = {resource}
local HOLDING = {dispatched = true, running = true, stopping = true}
for i = first, #ARGV, pair and 2 or 1 do
  local id, done = ARGV[i], false
  local job = kind ~= 'owners' and read(id)
  if kind == 'owners' then
    if call('EXISTS', P .. 'members:' .. id) == 0 then
      for _, free in ipairs(disown(id)) do
        back[#back + 1], done = free, true
      end
    end
  elseif kind == 'units' then
    local holds = job and HOLDING[job.state] and (' ' .. (job.held or '') .. ' '):find(' ' .. resource .. ' ', 1, true)
    if not holds and call('SISMEMBER', P .. 'holders:' .. resource, id) == 1 then
      remove('holders:' .. resource, id)
      done = true
    end
  elseif kind == 'orphans' then
    if job and (job.state == 'running' or job.state == 'stopping') and open == '1'
      and not call('ZSCORE', P .. 'workers', job.worker) then
      lose(job, 'its worker is gone')
      done = true
    end
  elseif job and FINAL[job.state] and job.version == ARGV[i + 1] and call('ZSCORE', P .. 'tombstones', id) then
    if kind == 'ended' then
      emit(job.replaced and 'replaced' or job.state, id, job.version, {state = job.state, token = job.ended ~= '' and job.ended or nil,
        reason = 'its end had not been recorded'})
    else
      call('ZREM', P .. 'tombstones', id)
      -- A replaced one lives on when the canvas publishes its id.
      if not job.replaced then
        leave_trace(id, job, 3600)
      end
    end
    done = true
  end
  if done then
    mended[#mended + 1] = id
  end
end
if #mended > 0 then
  emit('mended', '', 0, {by = 'reaper', reason = kind, resource = resource, jobs = mended})
  wake(back)
end
continue_wakes()
return cjson.encode({answer = 'ok', mended = #mended > 0 and mended or nil})
