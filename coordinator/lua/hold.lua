-- Holds a resource: while it is held its effective limit is 0. Nothing starts after this returned:
-- what was dispatched and is not claimed yet is taken back, or refused at its claim.
--
-- ARGV[2..] resource, JSON {by, reason, until_ms}
local resource, note = ARGV[2], cjson.decode(ARGV[3])
local before = call('HGET', P .. 'holds', resource)
local old = before and cjson.decode(before) or {}
if old.by == note.by and old.reason == note.reason and old.until_ms == note.until_ms then
  return cjson.encode({answer = 'done'})
end
note.at_ms = now
call('HSET', P .. 'holds', resource, cjson.encode(note))
call('ZREM', P .. 'ends', 'hold ' .. resource)
if note.until_ms then
  call('ZADD', P .. 'ends', note.until_ms, 'hold ' .. resource)
end
emit('paused', '', 0, {resource = resource, by = note.by, reason = note.reason, until_ms = note.until_ms,
  before = before or nil})
return cjson.encode({answer = 'done'})
