-- name: lock_warm
-- Who gives out work to warm pods, or counts them, does so alone: each sees what the one before him committed.
select pg_advisory_xact_lock(hashtextextended('warm/' || $1, 0));

-- name: warm_rows
select pod_id, state, pod_uid, run_id is null as free from pods where cluster = $1 and pod_id = any($2);

-- name: still_waiting
select pod_id from pods where cluster = $1 and pod_id = any($2) and state in ('resting', 'idle');

-- name: any_idle
select from pods where cluster = $1 and state = 'idle' limit 1;

-- name: rest_to_idle
-- A pod that was made ahead of any run has been made ready, and rests from that.
update pods set state = 'idle', rested_at = coalesce(rested_at, clock_timestamp()), trouble = null
where cluster = $1 and pod_id = any($2) and (state = 'resting' or state = 'bound' and ahead and run_id is null);

-- name: idle_pods
-- `spare`: how many of the Task's that wait are to be kept: what the prewarm duty decided, less those that are there else.
select p.pod_id, p.namespace, p.task, p.runs, t.warm,
       coalesce(t.present and t.version = p.version and p.created_at >= coalesce(t.restarted_at, '-infinity'), false) as current,
       case when w.keep > 0 then greatest(0, w.keep - (
           select count(*) from (
               select from pods o where o.cluster = p.cluster and o.namespace = p.namespace and o.task = p.task
               and o.version = p.version and o.state not in ('idle', 'closing', 'closed') limit w.keep) others))::int
           else 0 end as spare,
       p.template_hash is not distinct from l.template_hash as template,
       extract(epoch from clock_timestamp() - p.rested_at)::float8 as idle_seconds,
       extract(epoch from clock_timestamp() - p.created_at)::float8 as age_seconds
from pods p
left join leadership l on l.cluster = p.cluster
left join tasks t on t.cluster = p.cluster and t.namespace = p.namespace and t.name = p.task
left join prewarms w on w.cluster = p.cluster and w.namespace = p.namespace and w.task = p.task
where p.cluster = $1 and p.state = 'idle' and ($2::text is null or p.namespace = $2);

-- name: close_warm
-- Pods that have no run, for the reason beside each.
update pods p set state = 'closing', closing_at = clock_timestamp(), retired = g.why
from unnest($2::text[], $3::text[]) as g (pod_id, why)
where p.cluster = $1 and p.pod_id = g.pod_id
  and (p.state in ('resting', 'idle') or p.ahead and p.run_id is null and p.state in ('ahead', 'creating', 'created', 'bound'))
returning p.pod_id;

-- name: overdue_resting
select pod_id from pods where cluster = $1 and state = 'resting' and rested_at <= clock_timestamp() - $2::interval;

-- name: overdue_offers
select pod_id from pods where cluster = $1 and state = 'offered' and offered_at <= clock_timestamp() - $2::interval
order by offered_at limit $3;

-- name: hand_over
-- Attempts whose pod no launcher has taken go to idle pods of the same warm key, the oldest to the pod that was used
-- last, so that the others can age out. Under `lock_warm`. Runs before heads, attempts and pods; what somebody else has
-- locked is left out, and told: it is to be tried again.
with idle as (
    select p.pod_id, p.namespace, p.task, p.version, k.key,
           row_number() over (partition by p.namespace, p.task, p.version, k.key order by p.rested_at desc, p.pod_id) as nth
    from pods p
    join tasks t on t.cluster = p.cluster and t.namespace = p.namespace and t.name = p.task
    left join leadership l on l.cluster = p.cluster
    cross join lateral (select case when t.warm ->> 'reuse' = 'key' then p.reuse_key else '' end as key) k
    where p.cluster = $1 and p.state = 'idle' and p.template_hash is not distinct from l.template_hash
      and coalesce(t.warm ->> 'reuse', 'task') <> 'never'
), wanted as (
    select p.pod_id, p.run_id, p.attempt, p.namespace, p.task, p.version, k.key,
           row_number() over (partition by p.namespace, p.task, p.version, k.key order by p.created_at, p.pod_id) as nth
    from pods p
    join tasks t on t.cluster = p.cluster and t.namespace = p.namespace and t.name = p.task
    join runs r on r.run_id = p.run_id
    cross join lateral (select case when t.warm ->> 'reuse' = 'key' then r.concurrency_key else '' end as key) k
    where p.cluster = $1 and p.state = 'wanted'
), paired as materialized (
    select i.pod_id, w.pod_id as wanted, w.run_id, w.attempt
    from idle i join wanted w using (namespace, task, version, key, nth)
), ours as materialized (
    select r.run_id from runs r where r.run_id = any(array(select run_id from paired)) and r.state = 'admitted'
    order by r.run_id
    for no key update skip locked
), given as materialized (
    select p.pod_id from pods p join paired g on g.wanted = p.pod_id join ours o on o.run_id = g.run_id
    where p.state = 'wanted' and p.run_id = g.run_id and p.attempt = g.attempt
    for update of p skip locked
), takers as materialized (
    select p.pod_id from pods p where p.pod_id = any(array(select pod_id from paired)) and p.state = 'idle'
    for update skip locked
), offers as materialized (
    select g.* from paired g join given w on w.pod_id = g.wanted join takers t on t.pod_id = g.pod_id
), moved as (
    update attempts a set pod_id = o.pod_id from offers o
    where a.run_id = o.run_id and a.attempt = o.attempt and a.pod_id = o.wanted
), headed as (
    update run_heads h set pod_id = o.pod_id from offers o
    where h.run_id = o.run_id and h.attempt = o.attempt and h.pod_id = o.wanted
), unwanted as (
    delete from pods p using offers o where p.pod_id = o.wanted
), offered as (
    update pods p set state = 'offered', offered_at = clock_timestamp(), run_id = o.run_id, attempt = o.attempt
    from offers o where p.pod_id = o.pod_id
)
select g.pod_id, o.pod_id is not null as given from paired g left join offers o using (pod_id);

-- name: offered_runs
select run_id from pods where cluster = $1 and pod_id = any($2) and state = 'offered';

-- name: take_back
-- Attempts that their pods did not begin are wanted again, as if nobody had had them; these pods end. Runs are locked.
with back as materialized (
    select p.pod_id, p.cluster, p.namespace, p.task, p.version, p.run_id, p.attempt,
           substr(replace(gen_random_uuid()::text, '-', ''), 1, 16) as fresh
    from pods p join attempts a on a.run_id = p.run_id and a.attempt = p.attempt and a.pod_id = p.pod_id
    where p.pod_id = any($1) and p.run_id = any($2) and p.state = 'offered' and a.state = 'reserved'
    for update of p
), made as (
    insert into pods (pod_id, cluster, namespace, task, version, state, run_id, attempt, cold_reason)
    select fresh, cluster, namespace, task, version, 'wanted', run_id, attempt, 'returned' from back
), moved as (
    update attempts a set pod_id = b.fresh from back b where a.run_id = b.run_id and a.attempt = b.attempt
), headed as (
    update run_heads h set pod_id = b.fresh from back b where h.run_id = b.run_id and h.attempt = b.attempt
)
update pods p
set state = 'closing', closing_at = clock_timestamp(), retired = $3, run_id = null, attempt = null, offered_at = null
from back b where p.pod_id = b.pod_id
returning p.pod_id;

-- name: note_begun
-- Offered pods that an api of an earlier release started.
update pods p set state = 'bound'
from attempts a
where p.cluster = $1 and p.pod_id = any($2) and p.state = 'offered'
  and a.run_id = p.run_id and a.attempt = p.attempt and a.pod_id = p.pod_id and a.state = 'running';
