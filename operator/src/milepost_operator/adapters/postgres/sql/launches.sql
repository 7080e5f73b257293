-- name: take_epoch
insert into leadership (cluster, epoch, holder, template_hash) values ($1, 1, $2, $3)
on conflict (cluster) do update
set epoch = leadership.epoch + 1, holder = excluded.holder, template_hash = excluded.template_hash, since = clock_timestamp()
returning epoch;

-- name: check_epoch
-- Shared with other launches of this epoch; a new epoch waits for them, and none of an older one begins after it.
select epoch from leadership where cluster = $1 for share;

-- name: lines
-- What waits for a pod that no launcher has taken, by warm key, and what there is for it: pods that wait ($2: or rested so
-- lately that they will be back), pods launched for others of them or ahead of any, and of those that are there the $3 whose
-- last attempts were the shortest. Pods of one concurrency key alone are counted on only while they wait.
with wanted as (
    select p.namespace, p.task, p.version, k.memory_class, k.key, t.warm ->> 'reuse' = 'key' as by_key, l.template_hash,
           array_agg(p.pod_id order by p.created_at, p.pod_id) as pods,
           array_agg(extract(epoch from clock_timestamp() - p.created_at)::float8 order by p.created_at, p.pod_id) as waits
    from pods p
    left join tasks t on t.cluster = p.cluster and t.namespace = p.namespace and t.name = p.task
    left join runs r on r.run_id = p.run_id
    left join leadership l on l.cluster = p.cluster
    cross join lateral (select coalesce(r.memory_class, 0) as memory_class,
                               case when t.warm ->> 'reuse' = 'key' then r.concurrency_key else '' end as key) k
    where p.cluster = $1 and p.state = 'wanted'
    group by 1, 2, 3, 4, 5, 6, 7
), warm as (
    select p.namespace, p.task, p.version, p.memory_class, case when t.warm ->> 'reuse' = 'key' then p.reuse_key else '' end as key, count(*) as n
    from pods p
    join tasks t on t.cluster = p.cluster and t.namespace = p.namespace and t.name = p.task
    left join leadership l on l.cluster = p.cluster
    where p.cluster = $1 and (p.state = 'idle' or p.state = 'resting' and p.rested_at > clock_timestamp() - $2::interval)
      and p.template_hash is not distinct from l.template_hash and coalesce(t.warm ->> 'reuse', 'task') <> 'never'
    group by 1, 2, 3, 4, 5
)
select w.pods, w.waits, coalesce(m.n, 0) as warm, c.coming, q.serving, q.cold
from wanted w
left join warm m using (namespace, task, version, memory_class, key)
cross join lateral (
    select count(*) as coming from pods p
    where p.cluster = $1 and p.namespace = w.namespace and p.task = w.task and p.version = w.version
      and p.memory_class = w.memory_class and not w.by_key is true
      and (p.state in ('creating', 'created') or p.ahead and p.run_id is null and p.state = 'bound')) c
cross join lateral (
    select coalesce(array_agg(greatest(b.tenure_seconds, extract(epoch from clock_timestamp() - a.started_at))::float8), '{}') as serving,
           coalesce(array_agg(extract(epoch from b.bound_at - b.launched_at)::float8)
                    filter (where b.bound_at is not null and b.launched_at is not null), '{}') as cold
    from (select * from pods p
          where p.cluster = $1 and p.namespace = w.namespace and p.task = w.task and p.version = w.version
            and p.memory_class = w.memory_class and p.state in ('bound', 'resting', 'idle', 'offered')
            and p.tenure_seconds is not null
            and p.template_hash is not distinct from w.template_hash and not w.by_key is true
          order by p.tenure_seconds limit $3) b
    left join attempts a on a.run_id = b.run_id and a.attempt = b.attempt) q;

-- name: take_wanted
-- Those of `lines` that get a new pod ($3; $4: a warm one was there for it, and did not take it). Also those that an
-- earlier epoch had begun: their Job, if it is there, is adopted by its name.
with cold as (
    select * from unnest($3::text[], $4::bool[]) as u (pod_id, late)
), taken as (
    select pod_id from pods
    where cluster = $1 and (state = 'wanted' and pod_id = any($3)
                            or state = 'creating' and (epoch <> $2 or launched_at < clock_timestamp() - interval '10 seconds'))
    order by created_at
    limit $5
    for update skip locked
), facts as materialized (
    select q.pod_id, v.shape, v.image_digest, v.keeps, l.template_hash, t.warm, t.network, coalesce(c.late, false) as late,
           k.memory_class, s.same, e.other_memory, m.other_template, o.other_version, o.other_key
    from taken
    join pods q using (pod_id)
    left join runs r on r.run_id = q.run_id
    join task_versions v on v.cluster = q.cluster and v.namespace = q.namespace and v.task = q.task and v.version = q.version
    left join tasks t on t.cluster = q.cluster and t.namespace = q.namespace and t.name = q.task
    left join leadership l on l.cluster = q.cluster
    left join cold c on c.pod_id = q.pod_id
    cross join lateral (select case q.state when 'wanted' then coalesce(r.memory_class, 0) else q.memory_class end as memory_class) k
    -- each is looked for only where what is nearer was not found: a Task may have many pods at work. Compared so that the
    -- planner expects few, and takes the index: it would look for one of many among all that are closed.
    cross join lateral (
        select exists (select from pods o where o.cluster = $1 and o.namespace = q.namespace and o.task = q.task
                       and o.version = q.version and o.state not in ('wanted', 'closing', 'closed') and o.pod_id <> q.pod_id
                       and coalesce(o.template_hash, '') = coalesce(l.template_hash, '') and o.memory_class = k.memory_class) as same) s
    cross join lateral (
        select case when not s.same then exists (
                   select from pods o where o.cluster = $1 and o.namespace = q.namespace and o.task = q.task
                   and o.version = q.version and o.state not in ('wanted', 'closing', 'closed') and o.pod_id <> q.pod_id
                   and coalesce(o.template_hash, '') = coalesce(l.template_hash, ''))
               else false end as other_memory) e
    cross join lateral (
        select case when not s.same and not e.other_memory then exists (
                   select from pods o where o.cluster = $1 and o.namespace = q.namespace and o.task = q.task
                   and o.version = q.version and o.state not in ('wanted', 'closing', 'closed') and o.pod_id <> q.pod_id)
               else false end as other_template) m
    cross join lateral (
        select case when not s.same and not e.other_memory and not m.other_template then exists (
                   select from pods o where o.cluster = $1 and o.namespace = q.namespace and o.task = q.task
                   and o.version <> q.version and o.state not in ('wanted', 'closing', 'closed'))
               else false end as other_version,
               case when t.warm ->> 'reuse' = 'key' then exists (
                   select from pods o where o.cluster = $1 and o.namespace = q.namespace and o.task = q.task
                   and o.version = q.version and o.state = 'idle' and o.template_hash is not distinct from l.template_hash)
               else false end as other_key) o
)
update pods p set state = 'creating', epoch = $2, launched_at = clock_timestamp(), template_hash = f.template_hash,
    memory_class = f.memory_class
from facts f
where p.pod_id = f.pod_id
returning p.pod_id, p.namespace, p.task, p.version, p.template_hash, p.cold_reason, f.shape, f.image_digest, f.keeps, f.warm, f.network,
          f.late, f.other_key, f.same, f.other_memory, f.other_template, f.other_version, f.memory_class, p.run_id is null as ahead;

-- name: note_cold
-- Why these pods had to be made; what is known already stays.
update pods p set cold_reason = g.reason from unnest($1::text[], $2::text[]) as g (pod_id, reason)
where p.pod_id = g.pod_id and p.cold_reason is null;

-- name: launched
update pods set state = case when state = 'creating' then 'created' else state end, job_uid = $4
where cluster = $1 and pod_id = $2 and state in ('creating', 'created', 'bound') and (epoch = $3 or state <> 'creating')
returning pod_id;

-- name: open_pods
select p.pod_id, p.namespace, p.state, p.job_uid, p.pod_uid, p.run_id, p.attempt,
       extract(epoch from clock_timestamp() - coalesce(p.closing_at, p.launched_at, p.created_at))::float8 as age_seconds,
       case when a.settled or p.run_id is null and p.rested_at is not null then 10 else 0 end as grace_seconds,
       case when p.state = 'created' and s.seen_at > clock_timestamp() - interval '3 seconds'
            then extract(epoch from clock_timestamp() - greatest(p.launched_at, s.up_since)) else 0 end::float8 as unheard_seconds,
       a.reason as ended_as
from pods p
left join service_pulse s on s.cluster = p.cluster
left join attempts a on a.run_id = p.run_id and a.attempt = p.attempt
where p.cluster = $1 and p.state <> 'closed'
order by (p.state = 'closing') desc, p.created_at;

-- name: note_run
-- Its object is told later, if the reason holds.
update runs r
set reason = $3, message = left($4, 1000), wait_code = $3,
    wait_since = case when r.wait_code = $3 then r.wait_since else clock_timestamp() end
from pods p
where p.cluster = $1 and p.pod_id = $2 and p.state not in ('closing', 'closed')
  and r.run_id = p.run_id and r.attempt = p.attempt and r.state = 'admitted'
  and (r.reason is distinct from $3 or r.message is distinct from left($4, 1000));

-- name: set_digest
update task_versions v set image_digest = $3
from pods p
where p.cluster = $1 and p.pod_id = $2 and v.cluster = p.cluster and v.namespace = p.namespace and v.task = p.task
  and v.version = p.version and v.image_digest is null;

-- name: end_pod
-- Its row has still this attempt ($2, $3; null: none), and is in one of these states ($4; null: any).
update pods
set state = case when state in ('closing', 'closed') then state else 'closing' end, closing_at = coalesce(closing_at, clock_timestamp())
where pod_id = $1 and run_id is not distinct from $2::uuid and attempt is not distinct from $3::int
  and ($4::text[] is null or state = any($4))
returning pod_id;

-- name: tell_node_lost
-- A lease lapses long before Kubernetes gives a node up: how the attempt ended is known better now ($5 in the place of $4),
-- and nothing else of it changes. The run is locked first, as everywhere; no object is made for the sake of one that ended.
with mine as (
    select r.run_id, p.attempt from pods p join runs r on r.run_id = p.run_id
    where p.cluster = $1 and p.pod_id = $2 and p.state = 'closing'
    for no key update of r
), named as (
    update attempts a set reason = $5, message = left($3, 4000), evidence = $6
    from mine m
    where a.run_id = m.run_id and a.attempt = m.attempt and a.pod_id = $2 and a.state = 'ended' and a.reason = $4
    returning a.run_id, a.attempt
), counted as (
    update runs r set event_count = r.event_count + 1, rev = r.rev + (r.finished_at is null or r.cr_uid is not null)::int
    from named n where r.run_id = n.run_id
    returning r.run_id, r.event_count, n.attempt
)
insert into run_events (run_id, seq, reason, message, warning, terminal)
select run_id, event_count, 'CauseKnown', left(format('attempt %s: %s: %s (told before as %s)', attempt, $5::text, $3::text, $4::text), 900),
       false, false
from counted
returning run_id;

-- name: close_pod
update pods set state = 'closed', closed_at = clock_timestamp() where cluster = $1 and pod_id = $2 and state <> 'closed';
