-- A worker ends: what it still had goes back to waiting without counting against the jobs, piece by piece.
--
-- ARGV[2..] worker, reason ("left", or what is known of its death)
-- Answers {answer = ok, more = whether to call again}
local worker, reason = ARGV[2], ARGV[3]
local more = call('ZSCORE', P .. 'workers', worker) and not expire_worker(worker, reason)
continue_wakes()
return cjson.encode({answer = 'ok', more = more or nil})
