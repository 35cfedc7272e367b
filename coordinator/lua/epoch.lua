-- Refuses to work on a ledger of another life of the Redis server: one that was wiped, restarted from an
-- older file, or failed over to a lagging replica.
local meta = call('HMGET', P .. 'meta', 'run_id', 'open')
if meta[1] ~= ARGV[1] then
  return cjson.encode({answer = 'no-epoch'})
end
local open = meta[2]
