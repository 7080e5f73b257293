-- name: prewarm_facts
-- Tasks that should have pods, or may: those with pods, those that say how many, those that were changed a moment ago, those
-- with a slot within $2, and those that something was decided for. What is counted of runs is bounded: so many probes of
-- an index for each of them.
with named as (
    select distinct namespace, task from pods where cluster = $1 and state <> 'closed'
    union select namespace, name from tasks
          where cluster = $1 and present and ($6 or (warm ->> 'min')::int > 0 or updated_at > clock_timestamp() - interval '1 minute')
    union select namespace, task from schedules where cluster = $1 and due_at <= clock_timestamp() + $2::interval
    union select namespace, task from prewarms where cluster = $1
)
select t.namespace, t.name as task, t.version, t.warm, v.keeps,
       q.name is null or not q.present or q.paused or q.spec_paused
           or q.breaker is not null and q.breaker_phase = 'open' as paused,
       least(t.concurrency, coalesce(q.override_concurrency, q.concurrency)) as most,
       p.idle, p.coming, p.busy, a.recent, a.longer, a.silence, coalesce(d.run_seconds, 0)::float8 as run_seconds,
       d.cold_seconds, coalesce(s.slots, '{}') as slots, f.failures, coalesce(f.failed_ago, 0)::float8 as failed_ago,
       coalesce(c.trouble, f.trouble, '') as trouble
from named n
join tasks t on t.cluster = $1 and t.namespace = n.namespace and t.name = n.task and t.present
join task_versions v on v.cluster = $1 and v.namespace = t.namespace and v.task = t.name and v.version = t.version
left join queues q on q.cluster = $1 and q.namespace = t.namespace and q.name = t.queue
left join leadership l on l.cluster = $1
cross join lateral (
    select count(*) filter (where o.state = 'idle')::int as idle,
           count(*) filter (where o.ahead and o.run_id is null and o.state in ('ahead', 'creating', 'created', 'bound'))::int as coming,
           count(*) filter (where o.state <> 'idle' and not (o.ahead and o.run_id is null
                                                             and o.state in ('ahead', 'creating', 'created', 'bound')))::int as busy
    from pods o
    where o.cluster = $1 and o.namespace = t.namespace and o.task = t.name and o.version = t.version
      and o.state not in ('closing', 'closed') and o.created_at >= coalesce(t.restarted_at, '-infinity')
      and (o.template_hash is null or o.template_hash is not distinct from l.template_hash)
) p
cross join lateral (
    select count(*) filter (where r.created_at > clock_timestamp() - $3::interval)::int as recent, count(*)::int as longer,
           extract(epoch from clock_timestamp() - max(r.created_at))::float8 as silence
    from (select created_at from runs where cluster = $1 and namespace = t.namespace and task = t.name
          and created_at > clock_timestamp() - $4::interval order by created_at desc limit 2000) r
) a
cross join lateral (
    select avg(extract(epoch from coalesce(a.ended_at, clock_timestamp()) - a.started_at))::float8 as run_seconds,
           max(extract(epoch from a.started_at - o.created_at)) filter (where a.cold_reason is not null)::float8 as cold_seconds
    from (select run_id from runs where cluster = $1 and namespace = t.namespace and task = t.name
          order by created_at desc, run_id desc limit 20) r
    join attempts a on a.run_id = r.run_id and a.started_at is not null
    left join pods o on o.pod_id = a.pod_id
) d
cross join lateral (
    select array_agg(extract(epoch from s.due_at - clock_timestamp())::float8) as slots
    from schedules s
    where s.cluster = $1 and s.namespace = t.namespace and s.task = t.name and s.due_at <= clock_timestamp() + $2::interval
) s
cross join lateral (
    select count(*)::int as failures, min(extract(epoch from clock_timestamp() - b.closing_at)) as failed_ago,
           (array_agg(b.trouble order by b.created_at desc))[1] as trouble
    from (select o.closing_at, o.created_at, o.trouble from pods o
          where o.cluster = $1 and o.namespace = t.namespace and o.task = t.name and o.version = t.version and o.ahead
            and o.state in ('closing', 'closed') and o.trouble is not null
            and o.created_at > coalesce((
                select max(g.created_at) from pods g
                where g.cluster = $1 and g.namespace = t.namespace and g.task = t.name and g.version = t.version and g.ahead
                  and g.rested_at is not null and g.trouble is null), '-infinity')
          order by o.created_at desc limit 10) b
) f
cross join lateral (
    select max(o.trouble) as trouble from pods o
    where o.cluster = $1 and o.namespace = t.namespace and o.task = t.name and o.version = t.version and o.ahead
      and o.run_id is null and o.state in ('creating', 'created', 'bound')
) c
order by t.namespace, t.name
limit $5;

-- name: yielded_ago
-- Seconds since a pod gave way to a run that found no room.
select min(extract(epoch from clock_timestamp() - closing_at))::float8 as ago
from pods where cluster = $1 and retired = 'room' and closing_at > clock_timestamp() - $2::interval;

-- name: make_ahead
-- Under `lock_warm`: who decides next counts them.
insert into pods (pod_id, cluster, namespace, task, version, state, ahead)
select substr(replace(gen_random_uuid()::text, '-', ''), 1, 16), t.cluster, t.namespace, t.name, t.version, 'ahead', true
from unnest($2::text[], $3::text[], $4::int[]) as g (namespace, task, make)
join tasks t on t.cluster = $1 and t.namespace = g.namespace and t.name = g.task and t.present
cross join generate_series(1, g.make)
returning pod_id;

-- name: unmake_ahead
-- What nobody has launched, and is not needed any more: its Task is gone, has another version, or should have none.
delete from pods p where p.cluster = $1 and p.state = 'ahead'
  and not exists (select from tasks t join prewarms w on w.cluster = t.cluster and w.namespace = t.namespace and w.task = t.name
                  where t.cluster = p.cluster and t.namespace = p.namespace and t.name = p.task and t.present
                    and t.version = p.version and w.target > 0)
returning p.pod_id;

-- name: note_prewarms
-- What was decided, where it is something else than before.
insert into prewarms (cluster, namespace, task, target, keep, cause, held_back, message)
select $1, g.* from unnest($2::text[], $3::text[], $4::int[], $5::int[], $6::text[], $7::text[], $8::text[])
    as g (namespace, task, target, keep, cause, held_back, message)
where not exists (
    select from prewarms o where o.cluster = $1 and o.namespace = g.namespace and o.task = g.task
    and (o.target, o.keep, o.cause, o.held_back, o.message)
        is not distinct from (g.target, g.keep, g.cause, g.held_back, g.message))
on conflict (cluster, namespace, task) do update
set target = excluded.target, keep = excluded.keep, cause = excluded.cause, held_back = excluded.held_back,
    message = excluded.message, changed_at = clock_timestamp();

-- name: forget_prewarms
-- Of Tasks that are gone, and of those ($2, $3) that nothing is to be decided for.
delete from prewarms w where w.cluster = $1
  and (exists (select from unnest($2::text[], $3::text[]) as g (namespace, task)
               where g.namespace = w.namespace and g.task = w.task)
       or not exists (select from tasks t where t.cluster = $1 and t.namespace = w.namespace and t.name = w.task and t.present));

-- name: take_ahead
-- Orders for pods without a run, after all that have one: those that nobody has launched yet.
with taken as (
    select p.pod_id, v.shape, v.image_digest, l.template_hash, k.network
    from pods p
    join task_versions v on v.cluster = p.cluster and v.namespace = p.namespace and v.task = p.task and v.version = p.version
    left join tasks k on k.cluster = p.cluster and k.namespace = p.namespace and k.name = p.task
    left join leadership l on l.cluster = p.cluster
    where p.cluster = $1 and p.state = 'ahead'
    order by p.created_at
    limit $3
    for update of p skip locked
)
update pods p set state = 'creating', epoch = $2, launched_at = clock_timestamp(), template_hash = t.template_hash
from taken t where p.pod_id = t.pod_id
returning p.pod_id, p.namespace, p.task, p.version, p.template_hash, p.memory_class, t.shape, t.image_digest, t.network;

-- name: note_trouble
-- Of a pod without a run: why it does not run yet, or ended.
update pods set trouble = left($3, 1000)
where cluster = $1 and pod_id = $2 and ahead and run_id is null and rested_at is null and trouble is distinct from left($3, 1000);

-- name: note_unused
-- A pod that ended by itself before its first run has started no better than one that could not start.
update pods set trouble = 'Ended: the pod ended by itself while it waited for its first run'
where cluster = $1 and pod_id = $2 and ahead and run_id is null and runs = 0 and state = 'idle';

-- name: overdue_ahead
-- Their import has not ended: nobody knows whether it will.
update pods
set state = 'closing', closing_at = clock_timestamp(), retired = 'silent',
    trouble = 'Loading: the import of the task has not ended within 10 minutes'
where cluster = $1 and state = 'bound' and ahead and run_id is null and bound_at < clock_timestamp() - interval '10 minutes'
returning pod_id;

-- name: restart_pods
-- The Task's annotation was changed: pods that are not at work end, the others take no further work.
with told as (
    update tasks set restart = $4, restarted_at = case when $4::text is null then restarted_at else clock_timestamp() end
    where cluster = $1 and namespace = $2 and name = $3 and restart is distinct from $4
    returning 1
)
update pods p set state = 'closing', closing_at = clock_timestamp(), retired = 'restart'
from told
where $4::text is not null and p.cluster = $1 and p.namespace = $2 and p.task = $3 and p.run_id is null
  and p.state in ('ahead', 'resting', 'idle', 'creating', 'created', 'bound')
returning p.pod_id;

-- name: forget_ahead
-- Rows of pods that never had a run: no attempt remembers them.
delete from pods where pod_id in (
    select pod_id from pods
    where cluster = $1 and ahead and state = 'closed' and run_id is null and runs = 0 and closed_at < clock_timestamp() - interval '1 hour'
    order by closed_at limit 500);

-- name: code_of
-- What a pod without a run imports.
select p.pod_id, p.pod_uid, p.state, p.version, v.shape
from pods p
join task_versions v on v.cluster = p.cluster and v.namespace = p.namespace and v.task = p.task and v.version = p.version
where p.cluster = $1 and p.pod_id = $2;

-- name: note_left
update task_versions v set not_fork_safe = $4
from pods p
where p.cluster = $1 and p.pod_id = $2 and p.pod_uid = $3 and v.cluster = p.cluster and v.namespace = p.namespace
  and v.task = p.task and v.version = p.version and v.not_fork_safe is null;

-- name: task_facts
-- Of all Tasks: what is told in conditions.
select t.namespace, t.name as task, t.version, t.warm, v.not_fork_safe, w.target, w.cause, w.held_back, w.message,
       i.state as pull, i.reason as pull_reason, i.message as pull_message, i.nodes as pull_nodes
from tasks t
join task_versions v on v.cluster = t.cluster and v.namespace = t.namespace and v.task = t.name and v.version = t.version
left join prewarms w on w.cluster = t.cluster and w.namespace = t.namespace and w.task = t.name
left join image_pulls i on i.cluster = t.cluster and i.namespace = t.namespace and i.task = t.name and i.version = t.version
where t.cluster = $1 and t.present and (v.not_fork_safe is not null or w.target is not null or i.pull_id is not null);
