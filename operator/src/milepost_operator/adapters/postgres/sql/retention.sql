-- name: prunable
-- Tasks (found by hops through the index, one probe each) with ended runs past their time, and what of them is due.
-- $2, $3: seconds for rows; $4, $5: for records; each for success and failure. Records never outlive their row's time.
with recursive ended as (
    (select namespace, task from runs
     where cluster = $1 and finished_at is not null and not dead_lettered
     order by namespace, task limit 1)
    union all
    select n.namespace, n.task from ended e cross join lateral (
        select r.namespace, r.task from runs r
        where r.cluster = $1 and r.finished_at is not null and not r.dead_lettered
          and (r.namespace, r.task) > (e.namespace, e.task)
        order by r.namespace, r.task limit 1) n
), kept as (
    select e.namespace, e.task, k.succeeded, clock_timestamp() - make_interval(secs => k.rows_for) as rows_before,
           clock_timestamp() - make_interval(secs => least(k.records_for, k.rows_for)) as records_before
    from ended e
    left join tasks t on t.cluster = $1 and t.namespace = e.namespace and t.name = e.task
    cross join lateral (values
        (true, coalesce((t.retention ->> 'success_seconds')::float8, $2),
         coalesce((t.retention ->> 'records_success_seconds')::float8, $4)),
        (false, coalesce((t.retention ->> 'failure_seconds')::float8, $3),
         coalesce((t.retention ->> 'records_failure_seconds')::float8, $5))) k (succeeded, rows_for, records_for)
)
select 'records' as what, k.namespace, k.task, k.succeeded, k.records_before as before
from kept k
left join retention_marks m on m.cluster = $1 and m.namespace = k.namespace and m.task = k.task and m.succeeded = k.succeeded
where (select true from runs r
       where r.cluster = $1 and r.namespace = k.namespace and r.task = k.task and (r.state = 'succeeded') = k.succeeded
         and r.finished_at is not null and not r.dead_lettered and r.finished_at < k.records_before
         and (m.upto is null or (r.finished_at, r.run_id) > (m.upto, m.upto_run))
       order by r.finished_at, r.run_id limit 1)
union all
select 'runs', k.namespace, k.task, k.succeeded, k.rows_before
from kept k
where (select true from runs r
       where r.cluster = $1 and r.namespace = k.namespace and r.task = k.task and (r.state = 'succeeded') = k.succeeded
         and r.finished_at is not null and not r.dead_lettered and r.finished_at < k.rows_before and r.cr_uid is null
       order by r.finished_at, r.run_id limit 1)
limit $6;

-- name: begin_mark
insert into retention_marks (cluster, namespace, task, succeeded) values ($1, $2, $3, $4) on conflict do nothing;

-- name: lock_mark
-- Whoever holds it prunes; other replicas have other tasks to look after.
select upto, upto_run from retention_marks
where cluster = $1 and namespace = $2 and task = $3 and succeeded = $4
for update skip locked;

-- name: runs_past_records
-- Locked, so that nobody copies records that are being deleted. $8: about so many records a transaction.
with due as (
    select r.run_id, r.finished_at from runs r
    where r.cluster = $1 and r.namespace = $2 and r.task = $3 and (r.state = 'succeeded') = $4
      and r.finished_at is not null and not r.dead_lettered
      and (r.finished_at, r.run_id) > ($6, $7) and r.finished_at < $5
    order by r.finished_at, r.run_id
    limit $9
), weighed as (
    select d.*, sum(h.records) over (order by d.finished_at, d.run_id) - h.records as before_it
    from due d join run_heads h on h.run_id = d.run_id
)
select r.run_id, r.finished_at from weighed w join runs r on r.run_id = w.run_id
where w.before_it < $8
order by w.finished_at, w.run_id
for no key update of r;

-- name: delete_records
-- Objects that nothing else refers to are due to be deleted, which is not done here: first the rows.
with gone as (
    delete from records where run_id = any($1) returning run_id
), chunks as (
    delete from stream_chunks where run_id = any($1)
), heads as (
    update run_heads set records = 0, records_bytes = 0, records_pruned_at = clock_timestamp()
    where run_id = any($1) and records > 0
), unreferred as (
    delete from object_refs where run_id = any($1) and what = 'record' returning object_id
), due as (
    update objects o set due_at = clock_timestamp() from unreferred u where o.object_id = u.object_id
)
select count(*)::int as records from gone;

-- name: move_mark
update retention_marks set upto = $5, upto_run = $6
where cluster = $1 and namespace = $2 and task = $3 and succeeded = $4;

-- name: delete_runs
-- The rows of ended runs and all that hangs on them; a run that is shown in a Run object stays as long as that.
with due as (
    select r.run_id, r.finished_at from runs r
    where r.cluster = $1 and r.namespace = $2 and r.task = $3 and (r.state = 'succeeded') = $4
      and r.finished_at is not null and not r.dead_lettered and r.finished_at < $5 and r.cr_uid is null
    order by r.finished_at, r.run_id
    limit $7
), weighed as (
    select d.run_id, sum(h.records) over (order by d.finished_at, d.run_id) - h.records as before_it
    from due d left join run_heads h on h.run_id = d.run_id
), locked as materialized (
    select r.run_id, r.namespace, r.tags, r.created_at from weighed w join runs r on r.run_id = w.run_id
    where coalesce(w.before_it, 0) < $6 and r.cr_uid is null and not r.dead_lettered
    for update of r skip locked
), pods_gone as (
    delete from pods p using attempts a, locked l
    where a.run_id = l.run_id and p.pod_id = a.pod_id and p.state = 'closed'
), tags_gone as (
    delete from run_tags t using locked l
    where t.cluster = $1 and t.namespace = l.namespace and t.tag = any(l.tags) and t.created_at = l.created_at
      and t.run_id = l.run_id
)
delete from runs r using locked l where r.run_id = l.run_id
returning r.run_id;

-- name: surplus_crs
-- Objects of ours beyond the newest $2 (successes) or $3 (failures) of each task; tasks found by hops as in `prunable`.
with recursive shown as (
    (select namespace, task from runs
     where cluster = $1 and finished_at is not null and cr_uid is not null and intent_uid is null
     order by namespace, task limit 1)
    union all
    select n.namespace, n.task from shown s cross join lateral (
        select r.namespace, r.task from runs r
        where r.cluster = $1 and r.finished_at is not null and r.cr_uid is not null and r.intent_uid is null
          and (r.namespace, r.task) > (s.namespace, s.task)
        order by r.namespace, r.task limit 1) n
)
select r.run_id, r.namespace, r.name, r.cr_uid from shown s
left join tasks t on t.cluster = $1 and t.namespace = s.namespace and t.name = s.task
cross join lateral (values
    (true, coalesce((t.retention ->> 'successful_runs')::int, $2)),
    (false, coalesce((t.retention ->> 'failed_runs')::int, $3))) k (succeeded, keep)
cross join lateral (
    select r.run_id, r.namespace, r.name, r.cr_uid, r.rev, r.projected_rev from runs r
    where r.cluster = $1 and r.namespace = s.namespace and r.task = s.task and (r.state = 'succeeded') = k.succeeded
      and r.finished_at is not null and r.cr_uid is not null and r.intent_uid is null
    order by r.finished_at desc
    offset k.keep limit $4) r
where r.rev <= r.projected_rev
limit $4;

-- name: cr_deleted
update runs set cr_uid = null, projected_rev = greatest(projected_rev, rev)
where run_id = any($1) and finished_at is not null and intent_uid is null;

-- name: forget_absent_crs
-- Objects of ended runs that a complete list no longer has: their rows are kept for no object's sake any more.
update runs set cr_uid = null, intent_uid = null, projected_rev = greatest(projected_rev, rev)
where run_id in (
    select run_id from runs
    where cluster = $1 and finished_at is not null and cr_uid is not null and finished_at < $3
      and coalesce(projected_at, finished_at) < $3 and not (cr_uid = any($2))
    limit 500);
