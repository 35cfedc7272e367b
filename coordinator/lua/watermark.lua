-- Raises or lowers the flag that Redis is nearly full. Two marks, so that it does not flutter between them.
--
-- ARGV[2..] used bytes, allowed bytes (0 is no limit), percent to raise it at, percent to lower it at
-- Answers {answer = ok, full = whether it is up, changed}
local used, allowed = tonumber(ARGV[2]), tonumber(ARGV[3])
local up = call('HEXISTS', P .. 'meta', 'full') == 1
local share = allowed > 0 and 100 * used / allowed or 0
local full = share >= tonumber(ARGV[4]) or (up and share > tonumber(ARGV[5]))
if full then
  -- For a while only: a recorder that died must not leave it up for ever.
  call('HSET', P .. 'meta', 'full', cjson.encode({used = used, allowed = allowed, until_ms = now + 60000}))
elseif up then
  call('HDEL', P .. 'meta', 'full')
end
return cjson.encode({answer = 'ok', full = full, changed = full ~= up})
