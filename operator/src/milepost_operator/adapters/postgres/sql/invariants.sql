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
    where q.cluster = $1 and q.concurrency is not null and q.updated_at < a.reserved_at
    group by q.namespace, q.name, q.concurrency
    having count(*) > q.concurrency) over_limit;

-- name: slots_freed
-- 4: a lapsed lease frees its slot within a lease and a sweep of the time that it could.
select count(*) from runs r join run_heads h on h.run_id = r.run_id join service_pulse p on p.cluster = r.cluster
where r.cluster = $1 and r.state in ('running', 'cancelling')
  and greatest(h.lease_until, p.up_since + (h.lease_until - h.beat_at)) < clock_timestamp() - interval '30 seconds'
  and p.seen_at > clock_timestamp() - interval '3 seconds';

-- name: one_run_per_key
-- 5
select count(*) from (
    select 1 from idempotency_keys k join runs r on r.cluster = k.cluster and r.namespace = k.namespace
        and r.task = k.task and r.idempotency_key = k.key and r.created_at > k.expires_at - interval '1 second' * $2
    where k.cluster = $1 group by k.namespace, k.task, k.key having count(*) > 1) twice;

-- name: records_whole
-- 6: the head counts exactly the records that are there.
select count(*) from run_heads h join runs r on r.run_id = h.run_id
where r.cluster = $1 and h.records <> (select count(*) from records c where c.run_id = h.run_id);

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
