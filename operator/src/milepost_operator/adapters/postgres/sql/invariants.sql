-- name: acknowledged_runs_wait_or_end
-- 1: a live run has a queue that can admit it, a time, a reason, or an attempt.
select count(*) from runs r where r.cluster = $1 and (
    (r.state = 'queued' and r.created_at < clock_timestamp() - interval '1 minute'
        and not exists (select 1 from queues q where q.cluster = r.cluster and q.namespace = r.namespace
                        and q.name = r.queue and q.present))
    or (r.state = 'held' and r.reason is null)
    or (r.state in ('admitted', 'running', 'cancelling')
        and not exists (select 1 from attempts a where a.run_id = r.run_id and a.attempt = r.attempt and a.state <> 'ended')));

-- name: one_writer
-- 2: who may write is the newest attempt, and it is live.
select count(*) from run_heads h join runs r on r.run_id = h.run_id
where r.cluster = $1 and h.token is not null and not exists (
    select 1 from attempts a where a.run_id = h.run_id and a.attempt = r.attempt and a.token = h.token and a.state <> 'ended');

-- name: writes_fenced
-- 2: an attempt's records all come before what the next attempt resumes after. By sequence: times of two rows tell
-- nothing once the clock was set back.
select count(*) from records c join runs r on r.run_id = c.run_id
where r.cluster = $1 and exists (
    select 1 from attempts later where later.run_id = c.run_id and later.attempt > c.attempt and later.resumed_after < c.seq);

-- name: slots_within_limit
-- 3: no more slots than the limit, where the limit was not lowered since.
select count(*) from (
    select q.name from queues q
    join runs r on r.cluster = q.cluster and r.namespace = q.namespace and r.queue = q.name
        and r.state in ('admitted', 'running', 'cancelling')
    join attempts a on a.run_id = r.run_id and a.attempt = r.attempt
    where q.cluster = $1 and coalesce(q.override_concurrency, q.concurrency) is not null and q.updated_at < a.reserved_at
    group by q.namespace, q.name, coalesce(q.override_concurrency, q.concurrency)
    having count(*) > coalesce(q.override_concurrency, q.concurrency)
    union all
    select q.name from queues q
    join runs r on r.cluster = q.cluster and r.namespace = q.namespace and r.queue = q.name
        and r.state in ('admitted', 'running', 'cancelling')
    join attempts a on a.run_id = r.run_id and a.attempt = r.attempt
    where q.cluster = $1 and q.key_concurrency is not null and q.updated_at < a.reserved_at
    group by q.namespace, q.name, r.concurrency_key, q.key_concurrency
    having count(*) > q.key_concurrency
    union all
    select t.name from tasks t
    join runs r on r.cluster = t.cluster and r.namespace = t.namespace and r.task = t.name
        and r.state in ('admitted', 'running', 'cancelling')
    join attempts a on a.run_id = r.run_id and a.attempt = r.attempt
    where t.cluster = $1 and t.concurrency is not null and t.updated_at < a.reserved_at
    group by t.namespace, t.name, t.concurrency
    having count(*) > t.concurrency) over_limit;

-- name: slots_counted
-- 4: the counters of a queue and of its keys, less what was given back since, are the slots that are taken.
-- One statement sees one moment; a queue that was never claimed has no counter.
with taken as (
    select namespace, queue, concurrency_key as key, count(*) as n from runs
    where cluster = $1 and state in ('admitted', 'running', 'cancelling') group by namespace, queue, concurrency_key
), returned as (
    select namespace, queue, key, sum(slots) as n from slot_returns where cluster = $1 group by namespace, queue, key
), newest as (
    select distinct on (namespace, queue) namespace, queue, running from queue_states
    where cluster = $1 and counted_at > '-infinity' order by namespace, queue, turn desc
)
select (select count(*) from newest s
        where s.running <> coalesce((select sum(t.n) from taken t where t.namespace = s.namespace and t.queue = s.queue), 0)
                         + coalesce((select sum(r.n) from returned r where r.namespace = s.namespace and r.queue = s.queue), 0))
     + (select count(*) from queue_keys k join newest s on s.namespace = k.namespace and s.queue = k.queue
        left join taken t on t.namespace = k.namespace and t.queue = k.queue and t.key = k.key
        left join returned r on r.namespace = k.namespace and r.queue = k.queue and r.key = k.key
        where k.cluster = $1 and k.running <> coalesce(t.n, 0) + coalesce(r.n, 0));

-- name: rates_within_limit
-- 10: what the rate's row remembers is not above its limit, where the limit was not changed since.
select count(*) from (
    select q.rate::jsonb as rate, s.rate as state from queues q join lateral (
        select n.rate from queue_states n where n.cluster = q.cluster and n.namespace = q.namespace and n.queue = q.name
        order by n.turn desc limit 1) s on true
    where q.cluster = $1 and q.rate is not null and q.updated_at < (s.rate).at - make_interval(secs => (s.rate).seconds)
    union all
    select q.key_rate::jsonb, k.rate from queues q join queue_keys k
        on k.cluster = q.cluster and k.namespace = q.namespace and k.queue = q.name
    where q.cluster = $1 and q.key_rate is not null and q.updated_at < (k.rate).at - make_interval(secs => (k.rate).seconds)) r
where case when r.rate->>'algorithm' = 'bucket' then (r.state).tokens < 0
           else (select sum(c) from unnest((r.state).counts) c) > (r.rate->>'limit')::integer end;

-- name: waiting_is_told
-- 1: the key of a run that has waited for a while tells of it, so that the claim looks there.
select count(*) from (
    select distinct namespace, queue, concurrency_key, task from runs
    where cluster = $1 and state = 'queued' and greatest(ready_at, created_at) < clock_timestamp() - interval '1 minute') w
where not exists (select from queue_keys k where k.cluster = $1 and k.namespace = w.namespace and k.queue = w.queue
                  and k.key = w.concurrency_key and w.task = any(k.tasks));

-- name: slots_freed
-- 4: a lapsed lease frees its slot within a lease and a sweep of the time that it could.
select count(*) from runs r join run_heads h on h.run_id = r.run_id join service_pulse p on p.cluster = r.cluster
where r.cluster = $1 and r.state in ('running', 'cancelling')
  and greatest(h.lease_until, p.up_since + (h.lease_until - h.beat_at)) < clock_timestamp() - interval '30 seconds'
  and p.seen_at > clock_timestamp() - interval '3 seconds';

-- name: records_whole
-- 6: the head counts exactly the records that are there, and no two have one number.
select count(*) from run_heads h join runs r on r.run_id = h.run_id
where r.cluster = $1 and h.records <> (select count(distinct c.seq) from records c where c.run_id = h.run_id);

-- name: terminal_is_final
-- 7: an ended run has exactly one terminal event, a live one none.
select count(*) from runs r where r.cluster = $1 and
    (r.finished_at is not null) <> exists (select 1 from run_events e where e.run_id = r.run_id and e.terminal);

-- name: pods_match_attempts
-- 12: a running attempt has an open pod.
select count(*) from attempts a join runs r on r.run_id = a.run_id join pods p on p.pod_id = a.pod_id
where r.cluster = $1 and a.state <> 'ended' and p.state = 'closed' and p.closed_at < clock_timestamp() - interval '15 seconds';

-- name: epochs_monotonic
-- 15: no pod was launched by an epoch that is not known yet.
select count(*) from pods p join leadership l on l.cluster = p.cluster where p.cluster = $1 and p.epoch > l.epoch;
