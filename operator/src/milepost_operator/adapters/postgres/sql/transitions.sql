-- name: add_event
with numbered as (
    update runs set event_count = event_count + 1 where run_id = $1 returning event_count
)
insert into run_events (run_id, seq, reason, message, warning, terminal)
select $1, event_count, $2, left($3, 900), $4, $5 from numbered;

-- name: finish_waiting_run
-- The end of a run that nothing works on.
update runs set state = $2, reason = $3, message = $4, finished_at = clock_timestamp(), rev = rev + 1
where run_id = $1;

-- name: begin_cancelling
update runs set state = 'cancelling', cancel_requested_at = clock_timestamp(), cancel_requested_by = $2,
    cancel_deadline_at = clock_timestamp() + $3, reason = 'CancelRequested', message = $4, rev = rev + 1
where run_id = $1;

-- name: mark_cancel
update runs set cancel_requested_at = clock_timestamp(), cancel_requested_by = $2 where run_id = $1;

-- name: attempt_for_ending
select * from attempts where run_id = $1 and attempt = $2 for no key update;

-- name: head_for_ending
select * from run_heads where run_id = $1 for no key update;

-- name: end_attempt
-- Its queue's circuit breaker, if there is one, gets the verdict ($9) to judge later: here its lock would be out of order.
with ended as (
    update attempts
    set state = 'ended', settled = $3, reason = $4, message = left($5, 4000), counted = $6, infra = $7, evidence = $8,
        ended_at = clock_timestamp()
    where run_id = $1 and attempt = $2 and state <> 'ended'
    returning reserved_at
)
insert into breaker_outcomes (cluster, namespace, queue, verdict, admitted_at)
select q.cluster, q.namespace, q.name, $9, e.reserved_at
from ended e
join runs r on r.run_id = $1
join queues q on q.cluster = r.cluster and q.namespace = r.namespace and q.name = r.queue
where q.breaker is not null and $9 <> 'neutral';

-- name: fence_off
-- From here nobody can write for this run, until the next attempt is admitted.
update run_heads set token = null, pod_id = null, lease_until = null where run_id = $1;

-- name: after_attempt
-- A run that a pause put back keeps its time; what it waits for is shown when that has held.
update runs
set state = $2, reason = nullif($3, 'Paused'), message = case when $3 <> 'Paused' then left($4, 4000) end,
    attempts_counted = $5, infra_streak = $6, dead_lettered = $7,
    dead_lettered_at = case when $7 then clock_timestamp() end, next_cause = $8, result = $9, error = $10,
    wait_code = null, noted = null,
    ready_at = case when $3 = 'Paused' or $2 in ('suspended', 'held') then ready_at else clock_timestamp() + $11 end,
    order_at = case when $2 in ('queued', 'suspended', 'held') then order_at else order_at(clock_timestamp() + $11, priority) end,
    suspended_at = case when $2 = 'suspended' then clock_timestamp() end,
    held_at = case when $2 = 'held' then clock_timestamp() else held_at end,
    finished_at = case when $2 in ('queued', 'backoff', 'held', 'suspended') then null else clock_timestamp() end,
    rev = rev + 1
where run_id = $1;

-- name: pod_to_closing
update pods set state = 'closing', closing_at = clock_timestamp() where pod_id = $1 and state not in ('closing', 'closed');
