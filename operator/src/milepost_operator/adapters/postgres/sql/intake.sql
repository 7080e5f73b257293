-- name: lock_task
-- Before anything else of it: whoever waits here keeps no claim waiting.
select uid, generation, version, concurrency, semaphores from tasks
where cluster = $1 and namespace = $2 and name = $3 and present
for no key update;

-- name: upsert_version
-- One version for each distinct shape; an old shape applied again is its old version.
with known as (
    select version from task_versions where cluster = $1 and namespace = $2 and task = $3 and shape_hash = $4
), fresh as (
    insert into task_versions (cluster, namespace, task, version, shape_hash, shape)
    select $1, $2, $3, coalesce((select max(version) from task_versions where cluster = $1 and namespace = $2 and task = $3), 0) + 1, $4, $5
    where not exists (select 1 from known)
    on conflict do nothing
    returning version
)
select version from known union all select version from fresh;

-- name: lock_queues
-- A claim holds its queue from its first look until it commits: limits that claims of several queues keep, of a Task and of
-- semaphores, change between claims.
select from queues where cluster = $1 and namespace = $2 order by name for no key update;

-- name: upsert_task
insert into tasks (cluster, namespace, name, uid, generation, version, queue, retry, timeouts, concurrency, semaphores,
                   on_change, input_schema, versioning)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
on conflict (cluster, namespace, name) do update
set uid = excluded.uid, generation = excluded.generation, present = true, version = excluded.version,
    queue = excluded.queue, retry = excluded.retry, timeouts = excluded.timeouts,
    concurrency = excluded.concurrency, semaphores = excluded.semaphores, on_change = excluded.on_change,
    input_schema = excluded.input_schema, versioning = excluded.versioning,
    unpinned = tasks.unpinned and (excluded.versioning = 'pinned' or tasks.versioning = 'latest'),
    updated_at = clock_timestamp();

-- name: set_limits
-- As the manifest has them: what it leaves out is for the settings to say, at the time.
update tasks set retention = $4, record_limits = $5, warm = $6, network = $7, prepull = $8
where cluster = $1 and namespace = $2 and name = $3;

-- name: to_unpin
select not unpinned and versioning = 'latest' from tasks where cluster = $1 and namespace = $2 and name = $3;

-- name: unpin_waiting
-- A batch at a time: all at once would outlast the statement's time. What somebody else has locked is on its way to an
-- attempt, and hears of it at the end of that. ($4, $5): the last one of the batch before.
with found as (
    select run_id, created_at from runs
    where cluster = $1 and namespace = $2 and task = $3 and state in ('queued', 'backoff', 'suspended')
      and version is not null and (created_at, run_id) > ($4, $5)
    order by created_at, run_id
    limit 1000
    for no key update skip locked
), unpinned as (
    update runs r set version = null, rev = r.rev + 1 from found f where r.run_id = f.run_id
)
select created_at, run_id from found order by created_at desc, run_id desc limit 1;

-- name: set_unpinned
update tasks set unpinned = true where cluster = $1 and namespace = $2 and name = $3 and versioning = 'latest';

-- name: remove_task
update tasks set present = false, updated_at = clock_timestamp()
where cluster = $1 and namespace = $2 and name = $3 and present and ($4::text is null or uid = $4)
returning name;

-- name: upsert_queue
insert into queues (cluster, namespace, name, uid, generation, concurrency, key_concurrency, rate, key_rate, max_depth,
                    spec_paused)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
on conflict (cluster, namespace, name) do update
set uid = excluded.uid, generation = excluded.generation, present = true, concurrency = excluded.concurrency,
    key_concurrency = excluded.key_concurrency, rate = excluded.rate, key_rate = excluded.key_rate,
    max_depth = excluded.max_depth, spec_paused = excluded.spec_paused, updated_at = clock_timestamp()
where queues.uid <> excluded.uid or queues.generation <= excluded.generation or not queues.present;

-- name: remove_queue
update queues set present = false, updated_at = clock_timestamp()
where cluster = $1 and namespace = $2 and name = $3 and present and ($4::text is null or uid = $4)
returning name;

-- name: default_queue
-- The queue `default` needs no manifest: its row comes with the first Task that names it, and follows the settings.
insert into queues (cluster, namespace, name, uid, generation, concurrency)
values ($1, $2, 'default', '', 0, $3)
on conflict (cluster, namespace, name) do update set concurrency = excluded.concurrency, updated_at = clock_timestamp()
where queues.uid = '' and queues.concurrency is distinct from excluded.concurrency;

-- name: reset_default_queue
-- Its Queue was deleted: back to the limit of the settings.
update queues set present = true, uid = '', generation = 0, concurrency = $3, key_concurrency = null, rate = null,
    key_rate = null, max_depth = null, spec_paused = false, breaker = null, pause_on = '{}', updated_at = clock_timestamp()
where cluster = $1 and namespace = $2 and name = 'default' and ($4::text is null or uid = $4)
returning name;

-- name: hold_waiting_of_task
-- A batch at a time, as long as the Task is gone: all at once would outlast the statement's time. What somebody else has
-- locked is held when it is looked at again. ($5, $6): the last one of the batch before.
with found as (
    select run_id, created_at from runs
    where cluster = $1 and namespace = $2 and task = $3 and state in ('queued', 'delayed', 'backoff')
      and (created_at, run_id) > ($5, $6)
      and not exists (select from tasks m where m.cluster = $1 and m.namespace = $2 and m.name = $3 and m.present)
    order by created_at, run_id
    limit 1000
    for no key update skip locked
), held as (
    update runs r set state = 'held', held_at = clock_timestamp(), reason = 'TaskNotFound', message = $4, rev = r.rev + 1
    from found f where r.run_id = f.run_id
)
select created_at, run_id from found order by created_at desc, run_id desc limit 1;

-- name: hold_waiting_of_queue
-- A batch at a time, as long as the Queue is gone: all at once would outlast the statement's time. What somebody else has
-- locked is held when it is looked at again. ($5, $6): the last one of the batch before.
with found as (
    select run_id, created_at from runs
    where cluster = $1 and namespace = $2 and queue = $3 and state in ('queued', 'delayed', 'backoff')
      and (created_at, run_id) > ($5, $6)
      and not exists (select from queues m where m.cluster = $1 and m.namespace = $2 and m.name = $3 and m.present)
    order by created_at, run_id
    limit 1000
    for no key update skip locked
), held as (
    update runs r set state = 'held', held_at = clock_timestamp(), reason = 'QueueNotFound', message = $4, rev = r.rev + 1
    from found f where r.run_id = f.run_id
)
select created_at, run_id from found order by created_at desc, run_id desc limit 1;

-- name: release_held
-- Level-triggered: whatever order a run, its Task and its queue came in, what the run lacks now decides; its Task first.
-- Policy is copied when the run first sees its Task. Runs that lack the same are judged as one, found by hops through the
-- index: this is asked at each admission, however many are held.
with recursive alike as (
    (select namespace, task, queue, reason, retry is null as bare from runs
     where cluster = $1 and state = 'held' and reason in ('TaskNotFound', 'QueueNotFound')
     order by namespace, task, queue, reason, (retry is null) limit 1)
    union all
    select n.* from alike a cross join lateral (
        select r.namespace, r.task, r.queue, r.reason, r.retry is null as bare from runs r
        where r.cluster = $1 and r.state = 'held' and r.reason in ('TaskNotFound', 'QueueNotFound')
          and (r.namespace, r.task, r.queue, r.reason, r.retry is null) > (a.namespace, a.task, a.queue, a.reason, a.bare)
        order by r.namespace, r.task, r.queue, r.reason, (r.retry is null) limit 1) n
), facts as (
    select a.namespace, a.task, a.queue as was_queue, a.reason, a.bare, t.name as task_found, t.retry, t.timeouts, t.input_schema,
           case when a.bare then coalesce(t.queue, a.queue) else a.queue end as queue
    from alike a
    left join tasks t on t.cluster = $1 and t.namespace = a.namespace and t.name = a.task and t.present
), judged as (
    select f.*, case when f.task_found is null then 'TaskNotFound' when q.name is null then 'QueueNotFound' end as lacks
    from facts f
    left join queues q on q.cluster = $1 and q.namespace = f.namespace and q.name = f.queue and q.present
), changed as (
    select r.run_id, j.queue, j.retry, j.timeouts, j.lacks from judged j cross join lateral (
        select i.run_id from runs i
        where i.cluster = $1 and i.state = 'held' and i.namespace = j.namespace and i.task = j.task
          and i.queue = j.was_queue and i.reason = j.reason and (i.retry is null) = j.bare
          -- an input that the Task has never seen is checked first (unchecked_held)
          and (not j.bare or i.origin_run is not null or j.input_schema is not distinct from i.checked_schema)
        limit $2
        for no key update skip locked) r
    where j.lacks is distinct from j.reason or j.queue <> j.was_queue
    limit $2
)
update runs r
set queue = c.queue,
    retry = case when r.retry is null then c.retry else r.retry end,
    timeouts = case when r.timeouts is null then c.timeouts else r.timeouts end,
    state = case when c.lacks is not null then 'held'
                 when r.ready_at <= clock_timestamp() then 'queued'
                 when r.attempt = 0 then 'delayed' else 'backoff' end,
    reason = c.lacks,
    message = case c.lacks
        when 'TaskNotFound' then format('no Task %s in namespace %s: apply it, or delete the run', r.task, r.namespace)
        when 'QueueNotFound' then format('no Queue %s in namespace %s: apply it, or change the Task''s queue', c.queue, r.namespace) end,
    rev = r.rev + 1
from changed c
where r.run_id = c.run_id and r.state = 'held'
  -- as tell_keys, of the queues that the runs come to
  and (select count(tell_waiting($1, k.namespace, k.queue, k.concurrency_key, k.task, 'infinity')) >= 0
       from (select distinct o.namespace, n.queue, o.concurrency_key, o.task from changed n join runs o on o.run_id = n.run_id
             where n.lacks is null order by 1, 2, 3, 4) k)
returning r.run_id, r.state;

-- name: known_manifests
select 'tasks' as plural, namespace, name, uid from tasks where cluster = $1 and present and ($2::text is null or namespace = $2)
union all
select 'queues', namespace, name, uid from queues where cluster = $1 and present and uid <> '' and ($2::text is null or namespace = $2);

-- name: run_by_intent
select run_id, name, state from runs where cluster = $1 and intent_uid = $2;

-- name: run_to_adopt
-- A CR made again (GitOps, restore) that names a run of its namespace and task: by the run's id, or by its own name.
select run_id, name, state, input_hash, task from runs
where cluster = $1 and namespace = $2 and (run_id = $3 or name = $4)
order by (run_id = $3) desc nulls last
limit 1
for no key update;

-- name: adopt_run
update runs set intent_uid = $2, cr_uid = $2, rev = rev + 1 where run_id = $1;

-- name: lock_run
select * from runs where run_id = $1 for no key update;

-- name: lock_runs
-- In their order: two batches can't deadlock.
select run_id, name, state, attempt, attempts_counted, infra_streak, memory_class, retry, timeouts, cancel_requested_at
from runs where run_id = any($1) order by run_id for no key update;

-- name: lock_free_runs
-- As lock_runs; one that somebody else has locked is left out instead of waited for.
select run_id, name, state, attempt, attempts_counted, infra_streak, memory_class, retry, timeouts, cancel_requested_at
from runs where run_id = any($1) order by run_id for no key update skip locked;

-- name: runs_there
select run_id from runs where run_id = any($1);

-- name: run_of_cr
-- A deleted CR: the run it was made for or shows.
select run_id, state, intent_uid, cr_uid from runs
where cluster = $1 and namespace = $2 and (intent_uid = $3 or cr_uid = $3);

-- name: forget_cr
-- A live projection comes back; that of a finished run stays away.
update runs set cr_uid = null, intent_uid = null,
    projected_rev = case when $2 then 0 else rev end, rev = case when $2 then rev + 1 else rev end
where run_id = $1;

-- name: known_intents
select namespace, name, intent_uid from runs
where cluster = $1 and intent_uid is not null and ($2::text is null or namespace = $2)
  and state not in ('succeeded', 'failed', 'cancelled', 'timedOut', 'expired');
