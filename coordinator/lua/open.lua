-- Opens an epoch: the first script after Redis was empty, restarted or failed over. It does not look at
-- the run id of the ledger, since it is the one that sets it.
--
-- ARGV[2..] epoch, state ("building": all refuse; "0": workers report, nobody is admitted; "1": open),
--           workers that are awaited before admission opens; without any it opens at once. For "building"
--           the holder of the term of the restore
local state, present = ARGV[3], call('HMGET', P .. 'meta', 'epoch', 'run_id')
if (tonumber(present[1]) or 0) > tonumber(ARGV[2])
  or (state == 'building' and call('GET', P .. 'leader:restore') ~= ARGV[4])
  or (state == '0' and (present[1] ~= ARGV[2] or present[2] ~= run_id)) then
  -- Somebody else has begun a later one, or Redis was restarted once more meanwhile.
  return cjson.encode({answer = 'no-epoch'})
end
call('HSET', P .. 'meta', 'run_id', run_id)
if call('HGET', P .. 'meta', 'epoch') ~= ARGV[2] then
  -- Tokens of a later epoch are greater than all of an earlier one.
  call('HSET', P .. 'meta', 'epoch', ARGV[2], 'token', string.format('%.0f', ARGV[2] * 2 ^ 32))
  -- From here on a step of the clock is seen, also before the first tick.
  call('HSET', P .. 'meta', 'ticked', text(now))
end
if state == '0' then
  call('DEL', P .. 'awaited')
  for i = 4, #ARGV do
    call('SADD', P .. 'awaited', ARGV[i])
  end
  call('HSET', P .. 'meta', 'admit_at', text(now + default('lease_ms', 30000)))
end
call('HSET', P .. 'meta', 'open', state)
return cjson.encode({answer = 'ok'})
