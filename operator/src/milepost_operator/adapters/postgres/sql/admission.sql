-- name: queues_with_work
-- Queues in which something may be admitted: a key is next in turn or due, a run is bumped, slots came back.
-- Each is one probe beyond what the last claim left behind, so that old versions cost nothing.
select q.namespace, q.name, q.breaker is not null as guarded from queues q
left join lateral (
    select s.virtual, s.returns_upto, s.limits from queue_states s
    where s.cluster = q.cluster and s.namespace = q.namespace and s.queue = q.name order by s.turn desc limit 1
) s on true
where q.cluster = $1 and q.present and not q.paused and not q.spec_paused and (
    (select true from queue_keys k where k.cluster = q.cluster and k.namespace = q.namespace and k.queue = q.name
     and k.open and k.tasks <> '{}' and k.tag >= case when $2 then -1 else coalesce(s.virtual, 0) - 1 end limit 1)
    or (select true from slot_returns r where r.cluster = q.cluster and r.namespace = q.namespace and r.queue = q.name
        and r.return_id > case when $2 then 0 else coalesce(s.returns_upto, 0) end limit 1)
    or (select true from queue_keys k where k.cluster = q.cluster and k.namespace = q.namespace and k.queue = q.name
        and k.opens_at <= clock_timestamp() limit 1)
    or (select true from runs r where r.cluster = q.cluster and r.namespace = q.namespace and r.queue = q.name
        and r.state = 'queued' and r.bumped_at is not null limit 1)
    or (select true from runs r where (q.rate is not null or q.key_rate is not null) and r.cluster = q.cluster
        and r.namespace = q.namespace and r.queue = q.name and r.state = 'queued' and r.next_cause in ('resume', 'infra') limit 1))
order by q.namespace, q.name;

-- name: admit
select admitted, again_in from admit($1, $2, $3, $4);

-- name: find_waiting
-- Keys and tasks with runs waiting of which their key does not tell: a run was inserted while its key was put to rest.
-- One probe of the claim's index for each of them, however many runs wait.
with recursive found as (
    (select r.namespace, r.queue, r.concurrency_key, r.task from runs r
     where r.cluster = $1 and r.state = 'queued'
     order by r.namespace, r.queue, r.concurrency_key, r.task limit 1)
    union all
    select n.* from found f cross join lateral (
        select r.namespace, r.queue, r.concurrency_key, r.task from runs r
        where r.cluster = $1 and r.state = 'queued'
          and (r.namespace, r.queue, r.concurrency_key, r.task) > (f.namespace, f.queue, f.concurrency_key, f.task)
        order by r.namespace, r.queue, r.concurrency_key, r.task limit 1) n
), untold as (
    select f.* from found f
    where not coalesce((select f.task = any(k.tasks) from queue_keys k
                        where k.cluster = $1 and k.namespace = f.namespace and k.queue = f.queue and k.key = f.concurrency_key
                        order by k.tag desc limit 1), false)
)
select tell_waiting(array_agg($1::text), array_agg(namespace), array_agg(queue), array_agg(concurrency_key), array_agg(task),
                    array_agg('-infinity'::timestamptz)),
       count(*)::integer as found
from untold having count(*) > 0;

-- name: forget_keys
-- Keys that nothing uses and whose rate remembers nothing any more (the longest period is a day).
with idle as (
    select namespace, queue, key from queue_keys
    where cluster = $1 and tasks = '{}' and running = 0 and touched_at < clock_timestamp() - interval '2 days'
    limit $2
    for update skip locked
), forgotten as (
    delete from queue_keys k using idle i
    where k.cluster = $1 and k.namespace = i.namespace and k.queue = i.queue and k.key = i.key
)
delete from queue_key_names k using idle i
where k.cluster = $1 and k.namespace = i.namespace and k.queue = i.queue and k.key = i.key;

-- name: set_global_limit
insert into limits as l (cluster, namespace, kind, name, concurrency) values ($1, '', 'global', '', $2)
on conflict (cluster, namespace, kind, name) do update set concurrency = excluded.concurrency
where l.concurrency is distinct from excluded.concurrency;
