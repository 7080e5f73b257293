-- name: begin_checks
insert into task_checks (cluster, namespace, task) values ($1, $2, $3) on conflict do nothing;

-- name: claim_checks
-- Tasks that nobody has looked at for $2, those first that wait longest. They are ours until this transaction ends.
with due as (
    select namespace, task from task_checks
    where cluster = $1 and checked_at < (select clock_timestamp() - $2::interval)
    order by checked_at
    limit $3
    for no key update skip locked
)
update task_checks c set checked_at = clock_timestamp() from due d
where c.cluster = $1 and c.namespace = d.namespace and c.task = d.task
returning c.namespace, c.task, clock_timestamp() as now;

-- name: checked_task
-- None: the Task is gone.
select t.version, v.shape -> 'resources' as resources
from tasks t
join task_versions v on v.cluster = t.cluster and v.namespace = t.namespace and v.task = t.name and v.version = t.version
where t.cluster = $1 and t.namespace = $2 and t.name = $3 and t.present;

-- name: tried
-- The newest $5 attempts of each of a Task's newest $4 runs, and of as many that attempts have failed in. The record that
-- an attempt made last is the one that the next attempt resumed after. One probe each (`limit 1`): a join would read whole tables.
with looked_at as (
    (select run_id from runs where cluster = $1 and namespace = $2 and task = $3
     order by created_at desc, run_id desc limit $4)
    union
    (select run_id from runs where cluster = $1 and namespace = $2 and task = $3
       and (attempts_counted > 0 or infra_streak > 0)
     order by coalesce(finished_at, 'infinity') desc limit $4)
), newest as materialized (
    select a.*, coalesce(lag(a.resumed_after) over (partition by a.run_id order by a.attempt desc), h.last_seq) as last_seq
    from looked_at l
    cross join lateral (select last_seq from run_heads where run_id = l.run_id limit 1) h
    cross join lateral (select * from attempts where run_id = l.run_id order by attempt desc limit $5) a
)
select n.run_id::text as run, n.attempt, n.pod_id as pod, coalesce(p.version, 0) as version, n.cause, n.reason, n.counted, n.infra,
       n.reserved_at, n.started_at, n.ended_at,
       coalesce(extract(epoch from n.ended_at - greatest(n.started_at, r.created_at)), 0)::float8 as gap_seconds,
       coalesce((n.evidence ->> 'peak_bytes')::bigint, 0) as peak_bytes,
       coalesce((n.evidence ->> 'resident_bytes')::bigint, 0) as resident_bytes,
       coalesce(p.memory_class, 0) as memory_class, coalesce(p.pull_failed, false) as pull_failed,
       coalesce(p.retired = 'grew', false) as grew
from newest n
left join lateral (select * from pods where pod_id = n.pod_id limit 1) p on true
left join lateral (
    select created_at from records where run_id = n.run_id and seq = n.last_seq and n.last_seq > n.resumed_after limit 1) r
    on true;

-- name: findings_of
select kind, holds, reason, message, value from task_findings where cluster = $1 and namespace = $2 and task = $3;

-- name: put_findings
-- `since` is of the state; a message that changes alone does not touch it.
insert into task_findings as f (cluster, namespace, task, kind, holds, reason, message, value)
select $1, $2, $3, g.kind, g.holds, g.reason, left(g.message, 1000), g.value
from unnest($4::text[], $5::bool[], $6::text[], $7::text[], $8::bigint[]) as g (kind, holds, reason, message, value)
on conflict (cluster, namespace, task, kind) do update
set holds = excluded.holds, reason = excluded.reason, message = excluded.message, value = excluded.value,
    remedied = f.remedied and excluded.holds,
    since = case when f.holds = excluded.holds then f.since else clock_timestamp() end;

-- name: drop_checks
-- Of a Task that is gone.
with gone as (delete from task_findings where cluster = $1 and namespace = $2 and task = $3)
delete from task_checks where cluster = $1 and namespace = $2 and task = $3;

-- name: to_remedy
-- Patterns whose queue is to be paused for them, and has not been.
select f.namespace, f.task, f.kind, f.message, q.name as queue
from task_findings f
join tasks t on t.cluster = f.cluster and t.namespace = f.namespace and t.name = f.task and t.present
join queues q on q.cluster = f.cluster and q.namespace = f.namespace and q.name = t.queue and q.present
where f.cluster = $1 and f.holds and not f.remedied and f.kind = any(q.pause_on)
limit $2;

-- name: remedied
-- Whoever comes first does it: no row, when it was done or is over.
update task_findings set remedied = true
where cluster = $1 and namespace = $2 and task = $3 and kind = $4 and holds and not remedied
returning kind;

-- name: set_pause_on
-- As its Queue's manifest says, unless a newer one has been taken already.
update queues set pause_on = $5
where cluster = $1 and namespace = $2 and name = $3 and generation = $4 and pause_on is distinct from $5::text[];

-- name: all_findings
select f.namespace, f.task, f.kind, f.holds, f.reason, f.message, f.value, f.since
from task_findings f
join tasks t on t.cluster = f.cluster and t.namespace = f.namespace and t.name = f.task and t.present
where f.cluster = $1
order by f.namespace, f.task, f.kind;

-- name: note_pull_failed
update pods set pull_failed = true where cluster = $1 and pod_id = $2 and not pull_failed;
