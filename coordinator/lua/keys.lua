-- Put in front of all operations: the names of all keys and the clock.
--
-- KEYS[1] prefix of all keys of the ledger
-- ARGV[1] name of the operation, a space, run id of the Redis server as the client's connection learned it when it
--         connected
--
-- Keys (after the prefix):
--   meta              hash    epoch, run_id, open, sequence, token, ticked, clock_offset (tests), ...
--   defaults, limits  hash    resource or kind -> limit; configured, and set by an operator; `overrides` are set
--                             until a time and count more. "weight:<org>"
--                             there is the weight of the org's turns
--   holds             hash    resource -> JSON {by, reason, at_ms, until_ms, beneath: the hold of before, under panic}
--   probing           hash    resource -> JSON of the hold that its next run that fails brings back
--   ends              zset    "hold <resource>" | "override <resource>" by the time it ends
--   job:<id>          hash    where a job stands and what it holds
--   message:<id>      string  its Celery message, less the two closing braces of its headers; \1 for its id
--   class:<class>     zset    waiting jobs by sequence
--   needs:<class>     hash    needs, priority, org, owner; parked = the resource where the class is parked
--   lanes:<resource>  zset    "<priority>|<org>" of the classes parked there, by turn
--   passes:<resource> zset    lanes that have left, by turn (stride scheduling), kept while anything is parked there
--   parked:<resource>|<lane>  zset  classes by the sequence of their first job
--   holders:<resource>  set   owners of its units
--   owned:<owner>     set     resources of which an owner that is no job (a workflow's execution) has a unit
--   owners            set     those of which there is such a set
--   members:<owner>   set     its unfinished jobs; when the last of them ends it gives back what it has
--   keeping           zset    owners by the time when they give it back unless their next job has begun
--   claims            hash    owner -> what it held for a job that waits, while the ledger is restored
--   kin               set     owners that have waiting jobs; kin:<owner> set of the classes of these
--   blocked           set     resources where classes are parked
--   wakes             set     resources whose wake is not finished
--   delayed, expiring zset    jobs by due time, by expiry of the job itself
--   dispatched:<queue>  zset  dispatched, unclaimed jobs by the end of their dispatch lease
--   workers           zset    workers by the end of their lease
--   worker:<worker>   hash    what it reported; worker:<worker>:jobs set of its running jobs
--   pools             hash    queues consumed together, joined by " " -> slots of their live workers
--   pool_workers      hash    the same -> number of these workers
--   running:<pool>    set     running jobs of the workers of a pool
--   awaited           set     workers that have to report before a restored ledger opens
--   restored          set     resources of restored jobs, to be woken when it opens
--   wide              zset    waiting jobs of several models, by sequence
--   standby           hash    resource -> the job that waits in a process for its one unit
--   turn:<token>      list    the grant of a job that stands by
--   reservation       hash    job, class, models, start: the wide job that others must not delay any more
--   runtimes          hash    task -> running average of its run time in ms
--   counts            hash    "<queue>|<state>" -> jobs
--   tombstones        zset    finished jobs whose end the store has not confirmed
--   events            stream  every transition
--   leader:<name>     string  who holds a singleton's term
local P = KEYS[1]
local call = redis.call
local verb, run_id = ARGV[1]:match('^(%S+) (%S*)$')

local meta = call('HMGET', P .. 'meta', 'run_id', 'open', 'epoch', 'clock_offset', 'full', 'sequence', 'token')
local clock = call('TIME')
local now_us = clock[1] * 1000000 + clock[2] + (tonumber(meta[4]) or 0) * 1000
local now = math.floor(now_us / 1000)

-- A number as text without an exponent, which Lua would choose above 1e14.
local function text(number)
  return string.format('%.0f', number)
end

local defaults = {}
local function default(name, fallback)
  if defaults[name] == nil then
    defaults[name] = tonumber(call('HGET', P .. 'defaults', name)) or false
  end
  return defaults[name] or fallback
end
