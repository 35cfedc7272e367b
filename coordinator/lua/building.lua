-- For scripts that build the ledger: they admit nobody. Whoever was frozen while building it, and comes back
-- to a ledger that somebody else has built meanwhile, is refused.
--
-- ARGV[2] the epoch that is being built
if meta[1] ~= run_id or meta[2] ~= 'building' or meta[3] ~= ARGV[2] then
  return
end
local open, epoch = '0', ARGV[2]

return open, epoch
