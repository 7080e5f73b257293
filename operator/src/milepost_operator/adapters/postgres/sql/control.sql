-- name: lock_queue_to_change
-- The lock of admissions: what is changed under it holds for all that commit later.
select *, clock_timestamp() as now from queues where cluster = $1 and namespace = $2 and name = $3 and present
for no key update;

-- name: pause_queue
update queues
set paused_by = coalesce(paused_by, $4), paused_at = coalesce(paused_at, clock_timestamp()), pause_reason = $5
where cluster = $1 and namespace = $2 and name = $3;

-- name: unpause_queue
update queues set paused_by = null, paused_at = null, pause_reason = ''
where cluster = $1 and namespace = $2 and name = $3;

-- name: stop_queue
update queues set paused = true, held_since = clock_timestamp() where cluster = $1 and namespace = $2 and name = $3;

-- name: start_queue
-- The newest pauses are kept; a run that waited through more of them has waited long enough.
with over as (
    insert into queue_pauses (cluster, namespace, queue, since, until)
    select cluster, namespace, name, least(held_since, $4), $4 from queues
    where cluster = $1 and namespace = $2 and name = $3
    on conflict do nothing
), old as (
    delete from queue_pauses p using (
        select until from queue_pauses where cluster = $1 and namespace = $2 and queue = $3 order by until desc offset 1000) o
    where p.cluster = $1 and p.namespace = $2 and p.queue = $3 and p.until = o.until
)
update queues set paused = false, held_since = null where cluster = $1 and namespace = $2 and name = $3;

-- name: reserved_runs
-- Admitted and not started: each is looked at again under its lock.
select r.run_id from runs r
join attempts a on a.run_id = r.run_id and a.attempt = r.attempt and a.state = 'reserved'
where r.cluster = $1 and r.namespace = $2 and r.queue = $3 and r.state = 'admitted'
order by r.run_id;

-- name: override_queue
update queues
set override_concurrency = $5, override_by = case when $5::int is null then null else $4 end,
    override_at = case when $5::int is null then null else clock_timestamp() end, updated_at = clock_timestamp()
where cluster = $1 and namespace = $2 and name = $3 and present
returning name;

-- name: bump_run
-- Once: a run that was bumped keeps the place that it got.
update runs set bumped_at = coalesce(bumped_at, clock_timestamp()) where run_id = $1 and state = 'queued'
returning run_id;
