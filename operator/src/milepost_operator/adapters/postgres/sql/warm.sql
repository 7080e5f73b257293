-- name: lock_warm
-- Who gives out work to warm pods, or counts them, does so alone: each sees what the one before him committed.
select pg_advisory_xact_lock(hashtextextended('warm/' || $1, 0));

-- name: warm_rows
select pod_id, state, pod_uid, run_id is null as free from pods where cluster = $1 and pod_id = any($2);

-- name: still_waiting
select pod_id from pods where cluster = $1 and pod_id = any($2) and state in ('resting', 'idle');

-- name: rest_to_idle
-- A pod without a run that has been made ready for its first one rests from that.
update pods set state = 'idle', rested_at = coalesce(rested_at, clock_timestamp()), trouble = null
where cluster = $1 and pod_id = any($2) and (state = 'resting' or state = 'bound' and ahead and run_id is null);

-- name: idle_pods
-- Also those that will be once they are made ready: made ahead of any run, or without the attempt that they were launched
-- for. `spare`: how many of the Task's are to be kept: what the prewarm duty decided, less those that are at work.
select p.pod_id, p.state = 'idle' as there, p.namespace, p.task, p.runs, t.warm, p.trouble is not null as troubled,
       coalesce(t.present and t.version = p.version and p.created_at >= coalesce(t.restarted_at, '-infinity'), false) as current,
       case when w.keep > 0 then greatest(0, w.keep - (
           select count(*) from (
               select from pods o where o.cluster = p.cluster and o.namespace = p.namespace and o.task = p.task
               and o.version = p.version and o.state not in ('ahead', 'idle', 'closing', 'closed')
               and not (o.ahead and o.run_id is null and o.state in ('creating', 'created', 'bound')) limit w.keep) others))::int
           else 0 end as spare,
       p.state = 'ahead' or p.template_hash is not distinct from l.template_hash as template,
       case when p.state = 'idle' then extract(epoch from clock_timestamp() - p.rested_at) else 0 end::float8 as idle_seconds,
       extract(epoch from clock_timestamp() - p.created_at)::float8 as age_seconds
from pods p
left join leadership l on l.cluster = p.cluster
left join tasks t on t.cluster = p.cluster and t.namespace = p.namespace and t.name = p.task
left join prewarms w on w.cluster = p.cluster and w.namespace = p.namespace and w.task = p.task
where p.cluster = $1 and ($2::text is null or p.namespace = $2)
  and (p.state = 'idle' or p.ahead and p.run_id is null and p.state in ('ahead', 'creating', 'created', 'bound'));

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
-- Attempts whose pod is not there yet (no launcher has taken it, or it is launched and its sidecar has not spoken) go to
-- idle pods of the same warm key, the oldest to the pod that was used last, so that the others can age out. Safe beside
-- others of its kind, if not as good: runs before heads, attempts and pods, each as it is once it is locked; what somebody
-- else has locked or took a moment before is left out, and told: it is to be tried again. A launched pod that lost its
-- attempt so is from then on one made ahead of any run, unless its Job may not exist yet, or pods are for runs of one key.
with idle as (
    select p.pod_id, p.namespace, p.task, p.version, p.memory_class, k.key,
           row_number() over (partition by p.namespace, p.task, p.version, p.memory_class, k.key order by p.rested_at desc, p.pod_id) as nth
    from pods p
    join tasks t on t.cluster = p.cluster and t.namespace = p.namespace and t.name = p.task
    left join leadership l on l.cluster = p.cluster
    cross join lateral (select case when t.warm ->> 'reuse' = 'key' then p.reuse_key else '' end as key) k
    where p.cluster = $1 and p.state = 'idle' and p.template_hash is not distinct from l.template_hash
      and coalesce(t.warm ->> 'reuse', 'task') <> 'never'
      -- one that was at work while its Task was restarted may have come to rest since
      and p.created_at >= coalesce(t.restarted_at, '-infinity')
), waiting as (
    select p.pod_id, p.run_id, p.attempt, p.namespace, p.task, p.version, r.memory_class, k.key, t.warm ->> 'reuse' = 'key' as by_key,
           row_number() over (partition by p.namespace, p.task, p.version, r.memory_class, k.key order by p.created_at, p.pod_id) as nth
    from pods p
    join tasks t on t.cluster = p.cluster and t.namespace = p.namespace and t.name = p.task
    join runs r on r.run_id = p.run_id
    cross join lateral (select case when t.warm ->> 'reuse' = 'key' then r.concurrency_key else '' end as key) k
    where p.cluster = $1 and p.state in ('wanted', 'creating', 'created')
      and exists (select from pods i where i.cluster = $1 and i.state = 'idle')
), paired as materialized (
    select i.pod_id, w.pod_id as instead, w.run_id, w.attempt, w.by_key
    from idle i join waiting w using (namespace, task, version, memory_class, key, nth)
), ours as materialized (
    select r.run_id from runs r where r.run_id = any(array(select run_id from paired)) and r.state = 'admitted'
    order by r.run_id
    for no key update skip locked
), given as materialized (
    select p.pod_id, p.state from pods p join paired g on g.instead = p.pod_id join ours o on o.run_id = g.run_id
    where p.state in ('wanted', 'creating', 'created') and p.run_id = g.run_id and p.attempt = g.attempt
    for update of p skip locked
), takers as materialized (
    select p.pod_id from pods p where p.pod_id = any(array(select pod_id from paired)) and p.state = 'idle'
    for update skip locked
), offers as materialized (
    select g.*, w.state from paired g join given w on w.pod_id = g.instead join takers t on t.pod_id = g.pod_id
), moved as (
    update attempts a set pod_id = o.pod_id from offers o
    where a.run_id = o.run_id and a.attempt = o.attempt and a.pod_id = o.instead
), headed as (
    update run_heads h set pod_id = o.pod_id from offers o
    where h.run_id = o.run_id and h.attempt = o.attempt and h.pod_id = o.instead
), unwanted as (
    delete from pods p using offers o where p.pod_id = o.instead and o.state = 'wanted'
), vacated as (
    update pods p
    set run_id = null, attempt = null, cold_reason = null, ahead = true,
        state = case when o.state = 'created' and o.by_key is not true then 'created' else 'closing' end,
        closing_at = case when o.state = 'created' and o.by_key is not true then null else clock_timestamp() end,
        retired = case when o.state = 'created' and o.by_key is not true then null else 'moved' end
    from offers o where p.pod_id = o.instead and o.state <> 'wanted'
), offered as (
    update pods p set state = 'offered', offered_at = clock_timestamp(), run_id = o.run_id, attempt = o.attempt
    from offers o where p.pod_id = o.pod_id
)
select g.pod_id, o.pod_id is not null as given, coalesce(o.state <> 'wanted', false) as vacated
from paired g left join offers o using (pod_id);

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
