-- name: pulse
-- A gap of more than three seconds means that heartbeats could not be accepted: leases start anew from here.
-- So they do after the clock was set back.
insert into service_pulse as p (cluster) values ($1)
on conflict (cluster) do update
set up_since = case when clock_timestamp() - p.seen_at > interval '3 seconds' or p.seen_at > clock_timestamp()
                    then clock_timestamp() else p.up_since end,
    seen_at = clock_timestamp();

-- name: promote
with due as (
    select run_id from runs
    where cluster = $1 and state in ('delayed', 'backoff') and ready_at <= clock_timestamp()
    order by ready_at
    limit $2
    for no key update skip locked
)
update runs r set state = 'queued', order_at = order_at(r.ready_at, r.priority), rev = rev + (attempt = 0)::int
from due where r.run_id = due.run_id
returning r.run_id;

-- name: queues_with_work
-- A scalar subquery: one probe of the index for each queue, whatever the planner thinks of the backlog.
select q.namespace, q.name from queues q
where q.cluster = $1 and q.present and not q.paused
  and (select true from runs r where r.cluster = q.cluster and r.namespace = q.namespace and r.queue = q.name
       and r.state = 'queued' order by r.order_at limit 1)
order by q.namespace, q.name;

-- name: lock_queue
-- The lock that all admissions of a queue take; one that another replica holds is served there.
select concurrency from queues
where cluster = $1 and namespace = $2 and name = $3 and present and not paused
for update skip locked;

-- name: count_slots
-- A statement of its own, after the lock: in the lock's own statement it would count by an older snapshot.
select count(*)::int from runs
where cluster = $1 and namespace = $2 and queue = $3 and state in ('admitted', 'running', 'cancelling');

-- name: admit
-- Each admitted run gets its attempt, its fencing token and the row of its pod, before any Job is made.
-- A retry of a Task that is gone is held here: its attempt was still at work when the Task's waiting runs were held.
with picked as (
    select r.run_id from runs r
    where r.cluster = $1 and r.namespace = $2 and r.queue = $3 and r.state = 'queued'
    order by r.order_at, r.run_id
    limit $4
    for no key update skip locked
), bound as materialized (
    select r.run_id, r.attempt + 1 as attempt, r.next_cause, r.task,
           coalesce(r.version, t.version) as version,
           nextval('fencing_tokens') as token,
           substr(replace(gen_random_uuid()::text, '-', ''), 1, 16) as pod_id
    from picked p
    join runs r on r.run_id = p.run_id
    join tasks t on t.cluster = r.cluster and t.namespace = r.namespace and t.name = r.task and t.present
), orphans as (
    update runs r
    set state = 'held', held_at = clock_timestamp(), reason = 'TaskNotFound', rev = r.rev + 1,
        message = format('the Task %s was deleted: apply it again, or delete the run', r.task)
    from picked p
    where r.run_id = p.run_id and not exists (select 1 from bound b where b.run_id = r.run_id)
), admitted as (
    update runs r
    set state = 'admitted', attempt = b.attempt, version = b.version, reason = null, message = null, notes = 0,
        admitted_at = coalesce(r.admitted_at, clock_timestamp()),
        event_count = r.event_count + (b.attempt = 1)::int,
        rev = r.rev + (b.attempt = 1)::int
    from bound b where r.run_id = b.run_id
    returning r.run_id, r.event_count
), heads as (
    update run_heads h set attempt = b.attempt, token = b.token, pod_id = b.pod_id, beat_at = null, lease_until = null
    from bound b where h.run_id = b.run_id
    returning h.run_id, h.last_seq
), new_pods as (
    insert into pods (pod_id, cluster, namespace, task, version, state, run_id, attempt)
    select b.pod_id, $1, $2, b.task, b.version, 'wanted', b.run_id, b.attempt from bound b
), new_attempts as (
    insert into attempts (run_id, attempt, token, cause, state, pod_id, resumed_after)
    select b.run_id, b.attempt, b.token, b.next_cause, 'reserved', b.pod_id, h.last_seq
    from bound b join heads h on h.run_id = b.run_id
), events as (
    insert into run_events (run_id, seq, reason, message)
    select b.run_id, a.event_count, 'RunAdmitted', format('admitted by queue %s, version %s of task %s', $3::text, b.version, b.task)
    from bound b join admitted a on a.run_id = b.run_id
    where b.attempt = 1
)
select run_id from bound;

-- name: overdue
-- What time has ended: `cancel` grace over, `deadline` from its trigger, `run` time, `attempt` timeout, `lease` lapsed although beats were possible.
-- `start`: a sidecar that proved itself two minutes ago does not start its attempt.
-- After an outage the first pulse must have come: until then nobody knows that there was one.
select r.run_id, r.attempt,
       case when r.cancel_deadline_at <= clock_timestamp() then 'cancel'
            when r.deadline_at <= clock_timestamp() then 'deadline'
            when r.run_deadline_at <= clock_timestamp() then 'run'
            when a.deadline_at <= clock_timestamp() then 'attempt'
            when a.state = 'reserved' then 'start'
            else 'lease' end as why
from runs r
join run_heads h on h.run_id = r.run_id
left join attempts a on a.run_id = r.run_id and a.attempt = r.attempt and a.state <> 'ended'
left join pods b on b.pod_id = a.pod_id and a.state = 'reserved' and b.state = 'bound'
left join service_pulse p on p.cluster = r.cluster
where r.cluster = $1 and ($4::uuid is null or r.run_id = $4)
  and r.state in ('admitted', 'running', 'cancelling')
  and (r.cancel_deadline_at <= clock_timestamp() or r.run_deadline_at <= clock_timestamp()
       or r.deadline_at <= clock_timestamp() or a.deadline_at <= clock_timestamp()
       or (p.seen_at > clock_timestamp() - interval '3 seconds'
           and (h.lease_until <= clock_timestamp() and p.up_since + $3 <= clock_timestamp()
                or greatest(b.bound_at, p.up_since) < clock_timestamp() - interval '2 minutes' and b.bound_at is not null)))
limit $2;

-- name: overdue_waiting
-- Runs that nobody works on: past their deadline, past their own time, and held ones that nobody gave what they lack.
with found as (
    (select run_id from runs
     where cluster = $1 and deadline_at is not null and finished_at is null and deadline_at <= clock_timestamp()
       and state not in ('admitted', 'running', 'cancelling') and ($4::uuid is null or run_id = $4)
     limit $2)
    union
    (select run_id from runs
     where cluster = $1 and run_deadline_at is not null and state in ('queued', 'backoff', 'delayed', 'held')
       and run_deadline_at <= clock_timestamp() and ($4::uuid is null or run_id = $4)
     limit $2)
    union
    (select run_id from runs
     where cluster = $1 and state = 'held' and held_at <= clock_timestamp() - $3::interval
       and ($4::uuid is null or run_id = $4)
     limit $2)
)
select r.run_id,
       case when r.deadline_at <= clock_timestamp() then 'deadline'
            when r.run_deadline_at <= clock_timestamp() and r.state <> 'suspended' then 'run'
            else 'held' end as why
from found f join runs r on r.run_id = f.run_id
limit $2;

-- name: hold_stranded
-- Runs that wait in a queue that is gone: a trigger or a retry was under way when the queue's waiting runs were held.
with stranded as (
    select r.run_id from queues q
    join runs r on r.cluster = q.cluster and r.namespace = q.namespace and r.queue = q.name and r.state = 'queued'
    where q.cluster = $1 and not q.present
    limit $2
    for no key update of r skip locked
)
update runs r
set state = 'held', held_at = clock_timestamp(), reason = 'QueueNotFound', rev = r.rev + 1,
    message = format('the Queue %s was deleted: apply it again, or change the Task''s queue', r.queue)
from stranded s where r.run_id = s.run_id
returning r.run_id;
