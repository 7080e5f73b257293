-- name: take_epoch
insert into leadership (cluster, epoch, holder, template_hash) values ($1, 1, $2, $3)
on conflict (cluster) do update
set epoch = leadership.epoch + 1, holder = excluded.holder, template_hash = excluded.template_hash, since = clock_timestamp()
returning epoch;

-- name: check_epoch
-- Shared with other launches of this epoch; a new epoch waits for them, and none of an older one begins after it.
select epoch from leadership where cluster = $1 for share;

-- name: take_wanted
-- Also those that an earlier epoch had begun: their Job, if it is there, is adopted by its name. Those that a warm pod
-- can take, the oldest of each key, are left to it for a moment ($4); a pod that rests will be back by then.
with warm as (
    select p.namespace, p.task, p.version, case when t.warm ->> 'reuse' = 'key' then p.reuse_key else '' end as key, count(*) as n
    from pods p
    join tasks t on t.cluster = p.cluster and t.namespace = p.namespace and t.name = p.task
    left join leadership l on l.cluster = p.cluster
    where p.cluster = $1 and (p.state = 'idle' or p.state = 'resting' and p.rested_at > clock_timestamp() - $4::interval)
      and p.template_hash is not distinct from l.template_hash and coalesce(t.warm ->> 'reuse', 'task') <> 'never'
    group by 1, 2, 3, 4
), wanted as (
    select p.pod_id, p.namespace, p.task, p.version, k.key, p.created_at,
           row_number() over (partition by p.namespace, p.task, p.version, k.key order by p.created_at, p.pod_id) as nth
    from pods p
    left join tasks t on t.cluster = p.cluster and t.namespace = p.namespace and t.name = p.task
    left join runs r on r.run_id = p.run_id
    cross join lateral (select case when t.warm ->> 'reuse' = 'key' then r.concurrency_key else '' end as key) k
    where p.cluster = $1 and p.state = 'wanted'
), cold as (
    select w.pod_id, w.nth <= coalesce(m.n, 0) as late from wanted w left join warm m using (namespace, task, version, key)
    where w.nth > coalesce(m.n, 0) or w.created_at <= clock_timestamp() - $4::interval
), taken as (
    select pod_id from pods
    where cluster = $1 and (state = 'wanted' and pod_id in (select pod_id from cold)
                            or state = 'creating' and (epoch <> $2 or launched_at < clock_timestamp() - interval '10 seconds'))
    order by created_at
    limit $3
    for update skip locked
), facts as materialized (
    select q.pod_id, v.shape, v.image_digest, v.keeps, l.template_hash, t.warm, coalesce(c.late, false) as late,
           s.same, m.other_template, o.other_version, o.other_key
    from taken k
    join pods q on q.pod_id = k.pod_id
    join task_versions v on v.cluster = q.cluster and v.namespace = q.namespace and v.task = q.task and v.version = q.version
    left join tasks t on t.cluster = q.cluster and t.namespace = q.namespace and t.name = q.task
    left join leadership l on l.cluster = q.cluster
    left join cold c on c.pod_id = q.pod_id
    -- each is looked for only where what is nearer was not found: a Task may have many pods at work
    cross join lateral (
        select exists (select from pods o where o.cluster = $1 and o.namespace = q.namespace and o.task = q.task
                       and o.version = q.version and o.state not in ('wanted', 'closing', 'closed') and o.pod_id <> q.pod_id
                       and o.template_hash is not distinct from l.template_hash) as same) s
    cross join lateral (
        select case when not s.same then exists (
                   select from pods o where o.cluster = $1 and o.namespace = q.namespace and o.task = q.task
                   and o.version = q.version and o.state not in ('wanted', 'closing', 'closed') and o.pod_id <> q.pod_id)
               else false end as other_template) m
    cross join lateral (
        select case when not s.same and not m.other_template then exists (
                   select from pods o where o.cluster = $1 and o.namespace = q.namespace and o.task = q.task
                   and o.version <> q.version and o.state not in ('wanted', 'closing', 'closed'))
               else false end as other_version,
               case when t.warm ->> 'reuse' = 'key' then exists (
                   select from pods o where o.cluster = $1 and o.namespace = q.namespace and o.task = q.task
                   and o.version = q.version and o.state = 'idle' and o.template_hash is not distinct from l.template_hash)
               else false end as other_key) o
)
update pods p set state = 'creating', epoch = $2, launched_at = clock_timestamp(), template_hash = f.template_hash
from facts f
where p.pod_id = f.pod_id
returning p.pod_id, p.namespace, p.task, p.version, p.template_hash, p.cold_reason, f.shape, f.image_digest, f.keeps, f.warm,
          f.late, f.other_key, f.same, f.other_template, f.other_version, p.run_id is null as ahead;

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
            then extract(epoch from clock_timestamp() - greatest(p.launched_at, s.up_since)) else 0 end::float8 as unheard_seconds
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
-- Its row has still this attempt ($2, $3; null: none).
update pods
set state = case when state in ('closing', 'closed') then state else 'closing' end, closing_at = coalesce(closing_at, clock_timestamp())
where pod_id = $1 and run_id is not distinct from $2::uuid and attempt is not distinct from $3::int
returning pod_id;

-- name: close_pod
update pods set state = 'closed', closed_at = clock_timestamp() where cluster = $1 and pod_id = $2 and state <> 'closed';
