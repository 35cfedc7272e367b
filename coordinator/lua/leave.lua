-- A worker ends: what it still had goes back to waiting without counting against the jobs.
--
-- ARGV[2..] worker, reason ("left", or what is known of its death)
local worker, reason = ARGV[2], ARGV[3]
if call('ZSCORE', P .. 'workers', worker) then
  expire_worker(worker, reason)
end
continue_wakes()
return cjson.encode({answer = 'ok'})
