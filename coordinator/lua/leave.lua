-- A worker ends: what it still had goes back to waiting without counting against the jobs.
--
-- ARGV[2..] worker, reason ("left", or what is known of its death)
local worker, reason = ARGV[2], ARGV[3]
if call('EXISTS', P .. 'worker:' .. worker) == 1 then
  expire_worker(worker, reason)
end
continue_wakes()
return cjson.encode({answer = 'ok'})
