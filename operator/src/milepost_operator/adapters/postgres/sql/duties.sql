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
update runs r
set state = 'queued', order_at = case when r.next_cause = 'resume' then r.order_at else order_at(r.ready_at, r.priority) end,
    rev = rev + (attempt = 0)::int
from due where r.run_id = due.run_id and (select tell_keys(array(select run_id from due)))
returning r.run_id;

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
-- Runs that nobody works on: past their deadline, past their own time (which stands still until a decision), and held
-- ones that nobody gave what they lack.
with found as (
    (select run_id from runs
     where cluster = $1 and deadline_at is not null and finished_at is null and deadline_at <= clock_timestamp()
       and state not in ('admitted', 'running', 'cancelling') and ($4::uuid is null or run_id = $4)
     limit $2)
    union
    (select run_id from runs
     where cluster = $1 and run_deadline_at is not null and state in ('queued', 'backoff', 'delayed', 'held')
       and run_deadline_at <= clock_timestamp() and ($4::uuid is null or run_id = $4)
       and (state <> 'held' or reason <> 'CodeChanged')
     limit $2)
    union
    (select run_id from runs
     where cluster = $1 and state = 'held' and held_at <= clock_timestamp() - $3::interval
       and ($4::uuid is null or run_id = $4)
     limit $2)
)
select r.run_id,
       case when r.deadline_at <= clock_timestamp() then 'deadline'
            when r.run_deadline_at <= clock_timestamp() and r.state <> 'suspended'
                 and (r.state <> 'held' or r.reason <> 'CodeChanged') then 'run'
            else 'held' end as why,
       r.message
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
