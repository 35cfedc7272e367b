-- Notes what a verification found, for metrics and health.
--
-- ARGV[2] number of differences
call('HSET', P .. 'meta', 'drift', ARGV[2], 'verified', text(now))
return cjson.encode({answer = 'ok'})
