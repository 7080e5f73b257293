-- name: objects_are_kept
-- 6: what a run refers to is there, and nobody deletes it.
select count(*) from object_refs f
join runs r on r.run_id = f.run_id
left join objects o on o.object_id = f.object_id
where r.cluster = $1 and (o.object_id is null or o.deleting or o.sha256 is null);

-- name: objects_are_referred_to
-- 6: each object of a record or result is one that its run refers to.
select (select count(*) from records c join runs r on r.run_id = c.run_id
        where r.cluster = $1 and c.object is not null and not exists (
            select 1 from object_refs f where f.run_id = c.run_id and f.object_id = c.object and f.what = 'record'))
     + (select count(*) from runs r
        where r.cluster = $1 and r.result_object is not null and not exists (
            select 1 from object_refs f where f.run_id = r.run_id and f.object_id = r.result_object and f.what = 'result'));

-- name: objects_are_collected
-- What nothing refers to is due to be deleted.
select count(*) from objects o
where o.cluster = $1 and o.due_at is null and not exists (select 1 from object_refs f where f.object_id = o.object_id);
