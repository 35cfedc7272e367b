-- Sets what the store knows of limits, times and holds while the ledger is built again, without events.
--
-- ARGV[2..] epoch, then configure, pairs name, value | hold, resource, by, reason, until ms, since ms |
--           limit | override, resource, value, until ms | claim, owner, what it held for a step that waits, and perhaps
--           until when (ms) | probe, resource, by, reason of the hold that its next run that fails brings back
local kind = ARGV[3]
if kind == 'configure' then
  for i = 4, #ARGV, 2 do
    if ARGV[i + 1] ~= '' then
      call('HSET', P .. 'defaults', ARGV[i], ARGV[i + 1])
    end
  end
elseif kind == 'probe' then
  call('HSET', P .. 'probing', ARGV[4], cjson.encode({by = ARGV[5], reason = ARGV[6]}))
elseif kind == 'claim' then
  call('HSET', P .. 'claims', ARGV[4], ARGV[5])
  if ARGV[6] then
    call('ZADD', P .. 'keeping', ARGV[6], ARGV[4])
  end
else
  local until_ms
  if kind == 'hold' then
    until_ms = tonumber(ARGV[7])
    call('HSET', P .. 'holds', ARGV[4], cjson.encode({by = ARGV[5], reason = ARGV[6],
      until_ms = until_ms > 0 and until_ms or nil, at_ms = tonumber(ARGV[8]) or now}))
  else
    until_ms = tonumber(ARGV[6])
    call('HSET', P .. kind .. 's', ARGV[4], ARGV[5])
  end
  if until_ms > 0 then
    call('ZADD', P .. 'ends', until_ms, kind .. ' ' .. ARGV[4])
  end
end
return cjson.encode({answer = 'ok'})
