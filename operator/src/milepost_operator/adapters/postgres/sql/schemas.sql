-- name: put_schema
insert into schemas (hash, body) values ($1, $2) on conflict do nothing;

-- name: input_schemas
-- What the inputs of these Tasks' runs have to fit now.
select u.namespace, u.task, t.input_schema
from unnest($2::text[], $3::text[]) as u(namespace, task)
left join tasks t on t.cluster = $1 and t.namespace = u.namespace and t.name = u.task and t.present;

-- name: lock_input_schemas
-- The same, and it stays so until the transaction ends: the lock of a Task comes before that of any run.
select namespace, name as task, input_schema from tasks
where cluster = $1 and present and (namespace, name) in (select * from unnest($2::text[], $3::text[]))
order by namespace, name
for share;

-- name: schema_bodies
select hash, body::text as body from schemas where hash = any($1);

-- name: unchecked_held
-- Runs that were held before their Task was there, and whose input was not checked against the schema that it has. The
-- input of a copy was taken once: no retry or redrive is checked, whether its Task is there or comes back.
select r.run_id, r.task, r.input::text as input, t.input_schema
from runs r
join tasks t on t.cluster = r.cluster and t.namespace = r.namespace and t.name = r.task and t.present
where r.cluster = $1 and r.state = 'held' and r.retry is null and r.reason in ('TaskNotFound', 'InvalidInput')
  and r.origin_run is null and t.input_schema is distinct from r.checked_schema
order by r.run_id
limit $2;

-- name: checked_held
-- `message` null: it fits, and waits for what else it lacks.
update runs r
set checked_schema = c.hash, reason = case when c.message is null then 'TaskNotFound' else 'InvalidInput' end,
    message = coalesce(c.message, r.message), rev = r.rev + 1
from unnest($1::uuid[], $2::text[], $3::text[]) as c(run_id, hash, message)
where r.run_id = c.run_id and r.state = 'held' and r.retry is null and r.reason in ('TaskNotFound', 'InvalidInput');
