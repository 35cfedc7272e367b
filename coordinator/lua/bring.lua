-- Brings the jobs that are next for the models of some that have just begun, to stand by.
--
-- ARGV[2..] ids of these
for i = 2, #ARGV do
  local job = read(ARGV[i])
  if job and job.state == 'running' then
    bring_next(job)
  end
end
return cjson.encode({answer = 'ok'})
