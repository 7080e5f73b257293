-- name: begin_object
-- The row before the object, for an attempt that may write, within the limits of its run. $8: for a record; $9: seconds
-- after which nobody can still be writing it.
insert into objects (object_id, cluster, run_id, key, bytes, due_at)
select $5, $10, h.run_id, $6, $7, clock_timestamp() + make_interval(secs => $9)
from run_heads h
where h.run_id = $1 and h.attempt = $2 and h.token = $3 and h.pod_id = $4
  and (not $8::bool or (h.records < h.max_records and h.records_bytes + $7 <= h.max_records_bytes))
returning object_id;

-- name: usable_objects
-- Locked against who would delete them, in one order. $2: only those that are whole.
select object_id, run_id from objects
where object_id = any($1) and not deleting and (not $2 or sha256 is not null)
order by object_id
for no key update;

-- name: append_object
-- One record whose value is an object, which is locked. As `append_one`: the head is the fence and gives the number.
with head as (
    update run_heads h
    set last_seq = h.last_seq + 1, last_key = $7, records = h.records + 1, records_bytes = h.records_bytes + $10
    where h.run_id = $1 and h.attempt = $2 and h.token = $3 and h.pod_id = $4
      and h.records < h.max_records and h.records_bytes + $10 <= h.max_records_bytes
      and not exists (select 1 from records r
                      where r.run_id = $1 and r.write_id = $5 and r.kind = 'checkpoint' and $6 = 'checkpoint')
      and not exists (select 1 from records r where r.run_id = $1 and r.key = $7 and r.kind = 'step' and $6 = 'step')
    returning h.last_seq
), kept as (
    update objects set due_at = null, sha256 = $13 where object_id = $12 and exists (select from head)
), referred as (
    insert into object_refs (run_id, object_id, what) select $1, $12, 'record' from head
)
insert into records (run_id, seq, kind, key, attempt, write_id, types, fingerprint, bytes, failed, object)
select $1, last_seq, $6, $7, $2, $5, $8, $9, $10, $11, $12 from head
returning seq;

-- name: object_stored
update objects set sha256 = $2 where object_id = $1;

-- name: abandon_object
-- Nothing will refer to it. It is left for a while: a storage may still be at work on an upload that broke off.
update objects set due_at = least(due_at, clock_timestamp() + make_interval(secs => $2))
where object_id = $1 and due_at is not null;

-- name: keep_results
-- Of locked runs that succeeded by them. The objects are locked.
with kept as (
    select * from unnest($1::uuid[], $2::uuid[]) as k (run_id, object_id)
), held as (
    update objects o set due_at = null from kept k where o.object_id = k.object_id
), referred as (
    insert into object_refs (run_id, object_id, what) select run_id, object_id, 'result' from kept
)
update runs r set result_object = k.object_id from kept k where r.run_id = k.run_id;

-- name: object_of_record
select o.key, o.bytes, o.sha256 from records r join objects o on o.object_id = r.object
where r.run_id = $1 and r.seq >> 4 = $2::bigint >> 4 and r.seq = $2;

-- name: object_of_result
select o.key, o.bytes, o.sha256 from runs r join objects o on o.object_id = r.result_object where r.run_id = $1;

-- name: copy_object_refs
insert into object_refs (run_id, object_id, what)
select $2, object_id, what from object_refs where run_id = $1 and what = 'record';

-- name: due_objects
select object_id from objects
where cluster = $1 and due_at <= clock_timestamp()
order by due_at
limit $2
for update skip locked;

-- name: judge_objects
-- A statement of its own, after the lock: it sees what another one committed while this one waited. What is to go is
-- looked at again after $2 seconds, unless it is gone by then.
with judged as (
    select o.object_id, not exists (select 1 from object_refs f where f.object_id = o.object_id) as unused
    from objects o where o.object_id = any($1)
)
update objects o
set deleting = j.unused, due_at = case when j.unused then clock_timestamp() + make_interval(secs => $2) end
from judged j where o.object_id = j.object_id
returning o.object_id, o.key, o.bytes, j.unused;

-- name: objects_gone
delete from objects where object_id = any($1) and deleting;
