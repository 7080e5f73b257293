-- Values above the limit of a record or result are in object storage; a row refers to them.

-- There before the object is, so that every object is found by a row, whatever became of who wrote it. `run_id`: that it
-- was written for. `due_at`: when to look whether anything refers to it; null: something does, until that goes.
-- `deleting`: nothing does, and nothing can any more.
create table objects (
    object_id uuid primary key,
    cluster text not null,
    run_id uuid not null,
    key text not null,
    bytes bigint not null,
    sha256 bytea,
    due_at timestamptz,
    deleting boolean not null default false,
    created_at timestamptz not null default clock_timestamp(),
    constraint deleting_is_due check (not deleting or due_at is not null)
);
create index objects_due on objects (cluster, due_at) where due_at is not null;

-- The runs whose records or result an object is of: copies of a run share its objects. (An index on records themselves
-- would have to be made while they are written.)
create table object_refs (
    run_id uuid not null,
    object_id uuid not null references objects,
    what text not null check (what in ('record', 'result')),
    primary key (run_id, object_id, what)
);
create index object_refs_of on object_refs (object_id);

alter table runs add column result_object uuid;
alter table records add column object uuid;
-- Not valid, as the one that it replaces: records of before need no look at each.
alter table records drop constraint value_or_delta;
alter table records add constraint value_or_delta check (
    num_nonnulls(value, delta, object) = 1 and (base is null) = (delta is null) and (depth > 0) = (delta is not null)
    and (base is null or base < seq)) not valid;

-- What people read. Of a value in object storage the key of its object and its digest in the place of the value.
create or replace view record_values as
select r.run_id, r.seq, r.kind, r.key, r.attempt, r.write_id, r.created_at, r.bytes,
       case when r.delta is null then r.value else record_value(r.run_id, r.seq) end as value,
       r.types, r.fingerprint, r.failed, r.depth, coalesce(octet_length(coalesce(r.value, r.delta)::text), r.bytes) as kept_bytes,
       (select o.key from objects o where o.object_id = r.object) as object_key,
       (select encode(o.sha256, 'hex') from objects o where o.object_id = r.object) as object_sha256
from records r;

-- What runs referred to goes with them, unless others refer to it as well.
create or replace function delete_of_runs() returns trigger language plpgsql as $$
begin
    -- The heads first: whoever writes a record holds its run's head, and what he wrote is seen by the next statement.
    delete from run_heads h using gone g where h.run_id = g.run_id;
    delete from records r using gone g where r.run_id = g.run_id;
    delete from stream_chunks c using gone g where c.run_id = g.run_id;
    delete from run_events e using gone g where e.run_id = g.run_id;
    delete from attempts a using gone g where a.run_id = g.run_id;
    with unreferred as (
        delete from object_refs f using gone g where f.run_id = g.run_id returning f.object_id
    )
    update objects o set due_at = clock_timestamp() from unreferred u where o.object_id = u.object_id;
    return null;
end
$$;
