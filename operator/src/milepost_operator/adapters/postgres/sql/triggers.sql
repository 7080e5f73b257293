-- name: create_runs
-- Any number of runs, each once: its key is claimed, its Task's policy copied, what it lacks told, its head made.
-- Rows that come back were inserted; the others were not, and trigger_owners tells who was first.
-- Rows with the state `stale` were not: their input was checked against another schema than their Task's of now.
-- A key whose time is over, or whose run has ended (scope active), gives way.
with item as materialized (
    select i.*, greatest(coalesce(i.at, i.now + i.delay * interval '1 second'), i.now) as ready_at,
           t.name as task_found, t.queue, t.retry, t.timeouts, t.name is not null and t.input_schema is distinct from i.schema as stale
    from (
        select u.*, clock_timestamp() as now
        from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::text[], $9::text[],
                    $10::float8[], $11::float8[], $12::timestamptz[], $13::float8[], $14::float8[], $15::int[],
                    $16::text[], $17::int[], $18::text[], $19::text[], $20::text[], $21::text[])
            as u(run_id, namespace, task, name, input, input_hash, tags, key,
                 key_seconds, delay, at, ttl, deadline, priority,
                 concurrency_key, cost, singleton_key, origin, intent_uid, schema)
    ) i
    left join tasks t on t.cluster = $1 and t.namespace = i.namespace and t.name = i.task and t.present
), claimed as (
    insert into idempotency_keys (cluster, namespace, task, key, run_id, run_name, input_hash, scope, since, expires_at)
    select $1, i.namespace, i.task, i.key, i.run_id, i.name, i.input_hash,
           case when i.key_seconds is null then 'active' else 'window' end, i.now,
           coalesce(i.now + i.key_seconds * interval '1 second', 'infinity')
    from item i where i.key is not null and not i.stale
    on conflict (cluster, namespace, task, key) do update
    set run_id = excluded.run_id, run_name = excluded.run_name, input_hash = excluded.input_hash,
        scope = excluded.scope, since = excluded.since, expires_at = excluded.expires_at
    where idempotency_keys.expires_at <= clock_timestamp()
       or idempotency_keys.scope = 'active'
            and (select r.finished_at is not null from runs r where r.run_id = idempotency_keys.run_id)
    returning run_id
), made as (
    insert into runs (run_id, cluster, namespace, name, task, queue, state, reason, message, input, input_hash, tags,
                      idempotency_key, priority, concurrency_key, rate_cost, singleton_key, retry, timeouts, origin,
                      intent_uid, cr_uid, created_at, ready_at, order_at, held_at, expires_at, deadline_at)
    select i.run_id, $1, i.namespace, i.name, i.task, coalesce(i.queue, 'default'),
           case when i.task_found is null or q.name is null then 'held' when i.ready_at > i.now then 'delayed' else 'queued' end,
           case when i.task_found is null then 'TaskNotFound' when q.name is null then 'QueueNotFound' end,
           case when i.task_found is null
                then format('no Task %s in namespace %s: apply it, or delete the run', i.task, i.namespace)
                when q.name is null
                then format('no Queue %s in namespace %s: apply it, or change the Task''s queue', i.queue, i.namespace) end,
           i.input::json, i.input_hash,
           case when i.tags is null then '{}' else array(select json_array_elements_text(i.tags::json)) end,
           i.key, i.priority, i.concurrency_key, i.cost, i.singleton_key, i.retry, i.timeouts, i.origin,
           i.intent_uid, i.intent_uid, i.now, i.ready_at, order_at(i.ready_at, i.priority),
           case when i.task_found is null or q.name is null then i.now end,
           i.ready_at + i.ttl * interval '1 second', i.now + i.deadline * interval '1 second'
    from item i
    left join queues q on q.cluster = $1 and q.namespace = i.namespace and q.name = i.queue and q.present
    where not i.stale and (i.key is null or i.run_id in (select run_id from claimed))
    on conflict do nothing
    returning run_id, state, ready_at
), heads as (
    insert into run_heads (run_id) select run_id from made
)
select run_id, state, ready_at from made
union all
select c.run_id, key_without_run(), null from claimed c where c.run_id not in (select run_id from made)
union all
select i.run_id, 'stale', null from item i where i.stale;

-- name: trigger_owners
-- Who has what each of these triggers asked for; a statement of its own, which sees what was committed meanwhile.
with item as materialized (
    select * from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
        as u(item, namespace, task, name, key, singleton_key, intent_uid)
)
select i.item, 'intent' as claim, r.run_id, r.name, r.state, r.input_hash, r.ready_at, false as gone
from item i join runs r on r.cluster = $1 and r.intent_uid = i.intent_uid
union all
select i.item, 'key', k.run_id, k.run_name, coalesce(r.state, 'expired'), k.input_hash, r.ready_at,
       k.scope = 'active' and (r.run_id is null or r.finished_at is not null)
from item i
join idempotency_keys k on k.cluster = $1 and k.namespace = i.namespace and k.task = i.task and k.key = i.key
    and k.expires_at > clock_timestamp()
left join runs r on r.run_id = k.run_id
union all
select i.item, 'singleton', r.run_id, r.name, r.state, r.input_hash, r.ready_at, false
from item i
join runs r on r.cluster = $1 and r.namespace = i.namespace and r.task = i.task and r.singleton_key = i.singleton_key
    and r.singleton_key is not null and r.finished_at is null
union all
select i.item, 'name', r.run_id, r.name, r.state, r.input_hash, r.ready_at, false
from item i join runs r on r.cluster = $1 and r.namespace = i.namespace and r.name = i.name;

-- name: free_keys
delete from idempotency_keys k
using unnest($2::text[], $3::text[], $4::text[], $5::uuid[]) as u(namespace, task, key, run_id)
where k.cluster = $1 and k.namespace = u.namespace and k.task = u.task and k.key = u.key and k.run_id = u.run_id;

-- name: lock_debounces
-- The rows that calls of these keys take turns on; a fresh one names the caller's own run.
insert into debounces as d (cluster, namespace, task, key, run_id, until)
select $1, u.namespace, u.task, u.key, u.run_id, clock_timestamp() + u.max_seconds * interval '1 second'
from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::float8[]) as u(run_id, namespace, task, key, max_seconds)
on conflict (cluster, namespace, task, key) do update set touched_at = clock_timestamp()
returning d.namespace, d.task, d.key, d.run_id, d.until;

-- name: waiting_debounces
select d.namespace, d.task, d.key, d.run_id, d.until
from unnest($2::text[], $3::text[], $4::text[]) with ordinality as u(namespace, task, key, place)
join debounces d on d.cluster = $1 and d.namespace = u.namespace and d.task = u.task and d.key = u.key
order by d.namespace, d.task, d.key
for no key update of d;

-- name: push_debounced
-- Put off runs that wait for their time still, never beyond their last moment. Their time to live moves with them.
-- `input` null: the first one stays.
update runs r
set ready_at = p.ready_at, order_at = order_at(p.ready_at, r.priority),
    expires_at = r.expires_at + (p.ready_at - r.ready_at),
    input = coalesce(p.input::json, r.input), input_hash = coalesce(p.input_hash, r.input_hash),
    checked_schema = case when p.input is null then r.checked_schema end,
    rev = r.rev + 1
from (
    select u.*, least(clock_timestamp() + u.seconds * interval '1 second', u.until) as ready_at
    from unnest($1::uuid[], $2::float8[], $3::timestamptz[], $4::text[], $5::bytea[])
        as u(run_id, seconds, until, input, input_hash)
) p
where r.run_id = p.run_id and r.state in ('delayed', 'held') and r.attempt = 0 and r.ready_at > clock_timestamp()
returning r.run_id, r.name, r.state, r.ready_at;

-- name: point_debounces
-- The run of these keys has begun: a new one takes its place.
update debounces d
set run_id = u.run_id, until = clock_timestamp() + u.max_seconds * interval '1 second', touched_at = clock_timestamp()
from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::float8[]) as u(run_id, namespace, task, key, max_seconds)
where d.cluster = $1 and d.namespace = u.namespace and d.task = u.task and d.key = u.key;

-- name: lock_throttles
insert into throttles as t (cluster, namespace, task, key)
select $1, u.namespace, u.task, u.key from unnest($2::text[], $3::text[], $4::text[]) as u(namespace, task, key)
on conflict (cluster, namespace, task, key) do update set expires_at = t.expires_at
returning t.namespace, t.task, t.key, t.counts, extract(epoch from clock_timestamp())::float8 as now;

-- name: save_throttles
update throttles t set counts = u.counts::json, expires_at = clock_timestamp() + u.seconds * interval '1 second'
from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::float8[]) as u(namespace, task, key, counts, seconds)
where t.cluster = $1 and t.namespace = u.namespace and t.task = u.task and t.key = u.key;

-- name: queue_depths
-- The queue of each Task, and how many runs wait in it: counted up to its maxDepth and no further, and only where there
-- is one.
with wanted as (
    select u.namespace, u.task, q.name as queue, q.max_depth
    from unnest($2::text[], $3::text[]) as u(namespace, task)
    left join tasks t on t.cluster = $1 and t.namespace = u.namespace and t.name = u.task and t.present
    left join queues q on q.cluster = $1 and q.namespace = u.namespace and q.name = t.queue and q.present
), counted as (
    select d.namespace, d.queue,
           (select count(*)::int from (
                select from runs r
                where r.cluster = $1 and r.namespace = d.namespace and r.queue = d.queue and r.state = 'queued'
                order by r.concurrency_key, r.task, r.order_at -- by the claim's index, never through the table
                limit d.max_depth) waiting) as depth
    from (select distinct namespace, queue, max_depth from wanted where max_depth is not null) d
)
select w.namespace, w.task, w.queue, w.max_depth, c.depth
from wanted w left join counted c on c.namespace = w.namespace and c.queue = w.queue;

-- name: expired_window_keys
delete from idempotency_keys where ctid = any(array(
    select ctid from idempotency_keys where cluster = $1 and expires_at <= clock_timestamp() order by expires_at limit $2
    for update skip locked));

-- name: active_keys
-- The next keys of scope `active` in the order of their runs, and whether those have ended. They are freed by the run
-- that had them, in a statement of its own: a key that found another run meanwhile stays.
select k.namespace, k.task, k.key, k.run_id, r.run_id is null or r.finished_at is not null as ended
from idempotency_keys k left join runs r on r.run_id = k.run_id
where k.cluster = $1 and k.scope = 'active' and k.run_id > $2
order by k.run_id
limit $3;

-- name: expired_debounces
-- An hour after the last moment of a debounced run nobody can mean it any more.
delete from debounces where ctid = any(array(
    select ctid from debounces where cluster = $1 and until <= clock_timestamp() - interval '1 hour'
    order by until limit $2
    for update skip locked));

-- name: expired_throttles
delete from throttles where ctid = any(array(
    select ctid from throttles where cluster = $1 and expires_at <= clock_timestamp() - interval '1 minute'
    order by expires_at limit $2
    for update skip locked));

-- name: ended_runs
-- Of these runs, those that have ended or are no more.
select u.run_id from unnest($1::uuid[]) as u(run_id)
left join runs r on r.run_id = u.run_id
where r.run_id is null or r.finished_at is not null;
