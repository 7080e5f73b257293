-- Values at size: what a version adds to an earlier one is kept instead of the whole, and a run's records have limits.

-- A record has its value, or a delta on an earlier record of its run (`base`); `depth`: of how many deltas it is made.
-- `bytes` is the size of the whole value in either case.
alter table records alter column value drop not null;
alter table records add column depth smallint not null default 0, add column base bigint, add column delta json;
-- Not valid: rows of before are whole, and need no look at each.
alter table records add constraint value_or_delta check (
    (value is null) = (delta is not null) and (base is null) = (delta is null) and (depth > 0) = (delta is not null)
    and (base is null or base < seq)) not valid;

-- A step is told again by its key; only versions of a checkpoint need an index on who wrote them.
alter table records drop constraint records_run_id_write_id_key;
create unique index records_written on records (run_id, write_id) where kind = 'checkpoint';

-- Records are found by sixteens: entries that are alike share one, a fifth of the size. The head, which every writer
-- locks, gives each number once; an invariant counts them.
alter table records drop constraint records_pkey;
create index records_order on records (run_id, (seq >> 4));

-- The text that the edits of a delta make of another: `[[at, removed, text], ...]`, in characters, from left to right.
create function spliced(p_text text, p_delta json) returns text language plpgsql immutable strict parallel safe as $$
declare
    made text := '';
    done integer := 0;
    edit json;
begin
    for edit in select value from json_array_elements(p_delta) loop
        made := made || substr(p_text, done + 1, (edit ->> 0)::integer - done) || (edit ->> 2);
        done := (edit ->> 0)::integer + (edit ->> 1)::integer;
    end loop;
    return made || substr(p_text, done + 1);
end $$;

-- The whole value of a record. Null: there is no such record, or what it is made of does not give what was written.
create function record_value(p_run uuid, p_seq bigint) returns json language plpgsql stable set search_path from current as $$
declare
    part records;
    edits json;
    deltas json[] := '{}';
    size integer;
    made text;
begin
    select * into part from records where run_id = p_run and seq >> 4 = p_seq >> 4 and seq = p_seq;
    size := part.bytes;
    while part.delta is not null loop
        deltas := array_prepend(part.delta, deltas);
        select * into part from records where run_id = p_run and seq >> 4 = part.base >> 4 and seq = part.base;
    end loop;
    if cardinality(deltas) = 0 then
        return part.value;
    end if;
    made := part.value::text;
    foreach edits in array deltas loop
        made := spliced(made, edits);
    end loop;
    return case when octet_length(made) = size then made::json end;
exception
    when data_exception then
        return null;
end $$;

-- What people read: each record with its whole value.
create view record_values as
select run_id, seq, kind, key, attempt, write_id, created_at, bytes,
       case when delta is null then value else record_value(run_id, seq) end as value,
       types, fingerprint, failed, depth, octet_length(coalesce(value, delta)::text) as kept_bytes
from records;

-- What a run may record; taken from its Task when an attempt starts. `records_bytes`: what is kept.
alter table tasks add column record_limits json;
alter table run_heads add column max_records integer not null default 2147483647,
                      add column max_records_bytes bigint not null default 9223372036854775807;
