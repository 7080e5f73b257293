-- name: due_schedules
-- Locked until the runs are in and the cursor has moved; those that another replica holds are served there.
select s.schedule_id, s.namespace, s.task, s.name, s.spec, s.cursor_at, clock_timestamp() as now,
       t.name is not null as task_found
from schedules s
left join tasks t on t.cluster = s.cluster and t.namespace = s.namespace and t.name = s.task and t.present
where s.cluster = $1 and s.due_at <= clock_timestamp()
order by s.due_at
limit $2
for no key update of s skip locked;

-- name: live_runs_of_schedules
-- A statement of its own, after the lock.
select schedule_id, array_agg(run_id order by run_id) as runs from runs
where schedule_id = any($1) and finished_at is null
group by schedule_id;

-- name: insert_schedule_runs
-- Runs with what their schedules and Tasks say. A slot that has its run already makes no second one.
with items as (
    select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::text[])
        with ordinality as i(run_id, schedule_id, slot, name, input_hash, input, place)
), facts as (
    select i.*, s.cluster, s.namespace, s.task, s.spec, coalesce(t.queue, 'default') as queue, t.retry, t.timeouts,
           statement_timestamp() + i.place * interval '1 microsecond' as ready_at,
           case when t.name is null then 'TaskNotFound' when q.name is null then 'QueueNotFound' end as lacks
    from items i
    join schedules s on s.schedule_id = i.schedule_id
    left join tasks t on t.cluster = s.cluster and t.namespace = s.namespace and t.name = s.task and t.present
    left join queues q on q.cluster = t.cluster and q.namespace = t.namespace and q.name = t.queue and q.present
), inserted as (
    insert into runs (run_id, cluster, namespace, name, task, queue, state, reason, message, input, input_hash, tags,
                      priority, concurrency_key, ready_at, order_at, held_at, retry, timeouts, origin, schedule_id, slot)
    select run_id, cluster, namespace, name, task, queue, case when lacks is null then 'queued' else 'held' end, lacks,
           case lacks
               when 'TaskNotFound' then format('no Task %s in namespace %s: apply it, or delete the run', task, namespace)
               when 'QueueNotFound' then format('no Queue %s in namespace %s: apply it, or change the Task''s queue', queue, namespace) end,
           coalesce(input::json, spec -> 'input'), input_hash, array(select json_array_elements_text(spec -> 'tags')),
           (spec ->> 'priority')::integer, spec ->> 'concurrencyKey', ready_at,
           order_at(ready_at, (spec ->> 'priority')::integer), case when lacks is not null then clock_timestamp() end,
           retry, timeouts, 'schedule', schedule_id, slot
    from facts
    order by place
    on conflict (schedule_id, slot) where schedule_id is not null do nothing
    returning run_id
), heads as (
    insert into run_heads (run_id) select run_id from inserted
)
select run_id from inserted;

-- name: move_cursors
update schedules s
set cursor_at = m.cursor_at, next_at = m.next_at, due_at = m.due_at, fired = s.fired + m.fired,
    overlapped = s.overlapped + m.overlapped, dropped = s.dropped + m.dropped, last_slot = coalesce(m.last_slot, s.last_slot),
    note = coalesce(m.note, s.note), note_at = case when m.note is null then s.note_at else clock_timestamp() end,
    updated_at = clock_timestamp()
from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::int[], $6::int[], $7::int[],
            $8::text[], $9::text[])
     as m(schedule_id, cursor_at, next_at, due_at, fired, overlapped, dropped, last_slot, note)
where s.schedule_id = m.schedule_id;

-- name: rest_schedules
-- Their Task is not there: nothing fires, and nothing is missed, until it comes.
update schedules set active = false, due_at = null, next_at = null, updated_at = clock_timestamp()
where schedule_id = any($1);

-- name: rest_schedules_of_task
-- The Task is gone, and with it the schedules of its manifest.
update schedules
set active = false, due_at = null, next_at = null, updated_at = clock_timestamp(),
    deleted_at = case when managed then coalesce(deleted_at, clock_timestamp()) else deleted_at end
where cluster = $1 and namespace = $2 and task = $3 and (active or managed and deleted_at is null)
  and not exists (select 1 from tasks t where t.cluster = $1 and t.namespace = $2 and t.name = $3 and t.present);

-- name: task_is_there
select exists (select 1 from tasks where cluster = $1 and namespace = $2 and name = $3 and present);

-- name: lock_generation
-- Whether a Task is there and of this generation; it stays so until the transaction ends.
select true from tasks
where cluster = $1 and namespace = $2 and name = $3 and uid = $4 and generation = $5 and present
for share;

-- name: lock_schedules_of_task
select *, spec -> 'input' as input, clock_timestamp() as now from schedules where cluster = $1 and namespace = $2 and task = $3
order by schedule_id
for no key update;

-- name: put_schedule
-- A schedule of this name that was deleted comes back as what it was to its slots.
insert into schedules as s (schedule_id, cluster, namespace, task, name, spec, managed, active, paused, paused_by,
                            cursor_at, next_at, due_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
on conflict (cluster, namespace, task, name) do update
set spec = excluded.spec, managed = excluded.managed, active = excluded.active, paused = excluded.paused,
    paused_by = excluded.paused_by, cursor_at = excluded.cursor_at, next_at = excluded.next_at, due_at = excluded.due_at,
    created_at = case when s.deleted_at is null then s.created_at else clock_timestamp() end,
    note = case when s.deleted_at is null then s.note end, deleted_at = null, updated_at = clock_timestamp()
where s.deleted_at is not null or s.schedule_id = excluded.schedule_id
returning s.schedule_id;

-- name: delete_schedule
update schedules set deleted_at = clock_timestamp(), due_at = null, next_at = null, updated_at = clock_timestamp()
where schedule_id = any($1);

-- name: forget_schedules
-- Rows of deleted schedules that no run points to any more.
delete from schedules where schedule_id in (
    select s.schedule_id from schedules s
    where s.cluster = $1 and s.deleted_at < clock_timestamp() - interval '1 day'
      and not exists (select 1 from runs r where r.schedule_id = s.schedule_id)
    limit $2
    for update skip locked);

-- name: lock_schedule
select *, spec -> 'input' as input, clock_timestamp() as now from schedules
where cluster = $1 and namespace = $2 and schedule_id = $3 and deleted_at is null
for no key update;

-- name: schedule_view
-- Completed by the caller with conditions over `s`.
select s.*, s.spec -> 'input' as input from schedules s where s.cluster = $1 and s.deleted_at is null

-- name: runs_of_slots
select count(*) from runs where schedule_id = $1 and slot = any($2);

-- name: tasks_with_new_slots
-- Tasks whose schedules changed since a time (none: all), each with that of its last change.
select namespace, task, max(updated_at) as changed_at, min(next_at) as next_at,
       (array_agg(json_build_object('name', name, 'nextRun', to_char(next_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                                    'paused', paused, 'message', coalesce(note, ''))::text
                  order by next_at nulls last, name) filter (where deleted_at is null))[:$3] as schedules
from schedules
where cluster = $1 and (namespace, task) in (
    select namespace, task from schedules where cluster = $1 and updated_at >= coalesce($2::timestamptz, '-infinity'))
group by namespace, task
order by changed_at;
