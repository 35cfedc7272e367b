-- Opens an epoch: the first script after Redis was empty, restarted or failed over. It does not look at
-- the run id of the ledger, since it is the one that sets it.
--
-- ARGV[2..] epoch, state of admission ("0" closed while the ledger is rebuilt, "1" open)
call('HSET', P .. 'meta', 'run_id', ARGV[1], 'open', ARGV[3])
if call('HGET', P .. 'meta', 'epoch') ~= ARGV[2] then
  -- Tokens of a later epoch are greater than all of an earlier one.
  call('HSET', P .. 'meta', 'epoch', ARGV[2], 'token', string.format('%.0f', ARGV[2] * 2 ^ 32))
  call('HDEL', P .. 'meta', 'ticked')
end
return cjson.encode({answer = 'ok'})
