-- Deletes a part of all keys of the ledger but the terms of singletons, for a restore, and the events: the restore
-- leaves those among them that the recorder is not done with, or whoever waits for their results would wait for ever.
-- Only by who restores: one that was frozen must not wipe what another one has built meanwhile.
--
-- ARGV[2..] holder of the term of the restore, cursor ("0" begins)
-- Answers {answer = ok, cursor}; "0" again when all keys have been seen
if call('GET', P .. 'leader:restore') ~= ARGV[2] then
  return cjson.encode({answer = 'no-epoch'})
end
local found = call('SCAN', ARGV[3], 'MATCH', P:gsub('[%[%]*?\\]', '\\%0') .. '*', 'COUNT', 1000)
for _, key in ipairs(found[2]) do
  if key:sub(1, #P + 7) ~= P .. 'leader:' and key ~= P .. 'events' then
    call('UNLINK', key)
  end
end
return cjson.encode({answer = 'ok', cursor = found[1]})
