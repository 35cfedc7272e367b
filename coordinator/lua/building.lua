-- For scripts that build the ledger: they admit nobody. Whoever was frozen while building it, and comes back
-- to a ledger that somebody else has built meanwhile, is refused.
--
-- ARGV[2] the epoch that is being built
local building = call('HMGET', P .. 'meta', 'epoch', 'open', 'run_id')
if building[1] ~= ARGV[2] or building[2] ~= 'building' or building[3] ~= ARGV[1] then
  return cjson.encode({answer = 'no-epoch'})
end
local open, epoch = '0', ARGV[2]
