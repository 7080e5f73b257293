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

-- name: attempts_for_ending
-- Of locked runs, with what their heads say, and with what says whether the pod stays. In the order of the runs: two
-- batches can't deadlock.
select a.*, h.last_seq, p.reusable, p.runs as pod_runs, t.warm, v.keeps,
       coalesce(t.present and t.version = p.version and p.created_at >= coalesce(t.restarted_at, '-infinity'), false) as current,
       extract(epoch from clock_timestamp() - p.created_at)::float8 as pod_age
from unnest($1::uuid[], $2::int[]) as e (run_id, attempt)
join attempts a on a.run_id = e.run_id and a.attempt = e.attempt
join run_heads h on h.run_id = e.run_id
left join pods p on p.pod_id = a.pod_id
left join tasks t on t.cluster = p.cluster and t.namespace = p.namespace and t.name = p.task
left join task_versions v on v.cluster = p.cluster and v.namespace = p.namespace and v.task = p.task and v.version = p.version
order by a.run_id
for no key update of a, h;

-- name: memory_of_attempts
-- What their pods' memory is by: the class, and what the version says.
select a.run_id, p.memory_class, v.shape -> 'resources' as resources
from unnest($1::uuid[], $2::int[]) as e (run_id, attempt)
join attempts a on a.run_id = e.run_id and a.attempt = e.attempt
join pods p on p.pod_id = a.pod_id
join task_versions v on v.cluster = p.cluster and v.namespace = p.namespace and v.task = p.task and v.version = p.version;

-- name: head_for_ending
select last_seq from run_heads where run_id = $1 for no key update;

-- name: end_attempts
-- Attempts end, their fences fall (from here nobody can write for these runs until the next attempt is admitted), their
-- pods close, or rest if they stay, and their runs move on. A run that a pause put back keeps its time; what it waits for is shown when that
-- has held. One that will resume keeps its place. A queue's circuit breaker, if there is one, judges the verdicts later: here its lock would be out of order.
with ending as (
    select * from unnest($1::uuid[], $2::int[], $3::bool[], $4::text[], $5::text[], $6::bool[], $7::bool[], $8::json[], $9::text[],
                         $10::text[], $11::text[], $12::text[], $13::int[], $14::int[], $15::bool[], $16::text[],
                         $17::json[], $18::json[], $19::interval[], $20::text[], $21::text[], $22::bool[], $23::bool[], $24::text[],
                         $25::bigint[])
        as e (run_id, attempt, settled, reason, message, counted, infra, evidence, verdict,
              run_state, run_reason, run_message, attempts_counted, infra_streak, dead_lettered, next_cause,
              result, error, delay, event, event_message, warning, terminal, retired, memory_class)
), ended as (
    update attempts a
    set state = 'ended', settled = e.settled, reason = e.reason, message = left(e.message, 4000), counted = e.counted,
        infra = e.infra, evidence = e.evidence, ended_at = clock_timestamp()
    from ending e where a.run_id = e.run_id and a.attempt = e.attempt and a.state <> 'ended'
    returning a.run_id, a.pod_id, a.reserved_at, a.started_at, e.verdict, e.retired
), fenced as (
    update run_heads h set token = null, pod_id = null, lease_until = null from ending e where h.run_id = e.run_id
), closing as (
    update pods p set state = 'closing', closing_at = clock_timestamp(), retired = e.retired
    from ended e where p.pod_id = e.pod_id and p.state not in ('closing', 'closed')
      and (e.retired is not null or p.state not in ('bound', 'offered'))
), resting as (
    update pods p
    set state = 'resting', rested_at = clock_timestamp(), runs = p.runs + 1, reuse_key = r.concurrency_key,
        run_id = null, attempt = null, offered_at = null,
        tenure_seconds = extract(epoch from clock_timestamp() - e.started_at)
    from ended e join runs r on r.run_id = e.run_id
    where p.pod_id = e.pod_id and p.state in ('bound', 'offered') and e.retired is null
), moved as (
    update runs r
    set state = e.run_state, reason = nullif(e.run_reason, 'Paused'),
        message = case when e.run_reason <> 'Paused' then left(e.run_message, 4000) end,
        attempts_counted = e.attempts_counted, infra_streak = e.infra_streak, dead_lettered = e.dead_lettered,
        dead_lettered_at = case when e.dead_lettered then clock_timestamp() end, next_cause = e.next_cause,
        result = e.result, error = e.error, wait_code = null, noted = null, memory_class = e.memory_class,
        ready_at = case when e.run_reason = 'Paused' or e.run_state in ('suspended', 'held') then r.ready_at
                        else clock_timestamp() + e.delay end,
        order_at = case when e.run_state in ('queued', 'suspended', 'held') or e.next_cause = 'resume' then r.order_at
                        else order_at(clock_timestamp() + e.delay, r.priority) end,
        suspended_at = case when e.run_state = 'suspended' then clock_timestamp() end,
        run_deadline_at = r.run_deadline_at + case when e.run_reason = 'StepBackoff' then e.delay else '0' end,
        held_at = case when e.run_state = 'held' then clock_timestamp() else r.held_at end,
        finished_at = case when e.run_state in ('queued', 'backoff', 'held', 'suspended') then null else clock_timestamp() end,
        event_count = r.event_count + (e.event is not null)::int, rev = r.rev + 1
    from ending e
    where r.run_id = e.run_id and (select tell_keys(array(select run_id from ending where run_state = 'queued')))
    returning r.run_id, r.cluster, r.namespace, r.queue, r.event_count
), told as (
    insert into run_events (run_id, seq, reason, message, warning, terminal)
    select m.run_id, m.event_count, e.event, left(e.event_message, 900), e.warning, e.terminal
    from moved m join ending e on e.run_id = m.run_id where e.event is not null
)
insert into breaker_outcomes (cluster, namespace, queue, verdict, admitted_at)
select q.cluster, q.namespace, q.name, e.verdict, e.reserved_at
from ended e
join moved m on m.run_id = e.run_id
join queues q on q.cluster = m.cluster and q.namespace = m.namespace and q.name = m.queue
where q.breaker is not null and e.verdict <> 'neutral';

-- name: tell_keys
-- Before two statements that may queue some of these runs each: the keys of both in one order.
select tell_keys($1);
