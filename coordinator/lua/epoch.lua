-- Refuses to work on a ledger of another life of the Redis server: one that was wiped, restarted from an
-- older file, or failed over to a lagging replica; and on one that is still being built again.
if meta[1] ~= run_id or meta[2] == 'building' then
  return
end
local open, epoch = meta[2], meta[3]

return open, epoch
