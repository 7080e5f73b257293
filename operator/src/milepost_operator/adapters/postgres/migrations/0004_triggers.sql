-- What runs are asked for with. A cost is what a run takes of a rate; both columns may be there already.
alter table queues add column if not exists max_depth integer;
alter table runs add column if not exists rate_cost integer not null default 1;
alter table runs add constraint priority_in_range check (priority between -100 and 100) not valid;

-- At most one run of a task that has not ended for each of its singleton keys. Ended rows never reopen, so that no
-- update can ever break this index.
alter table runs add column singleton_key text;
create unique index runs_singleton on runs (cluster, namespace, task, singleton_key)
    where singleton_key is not null and finished_at is null;

-- A key is its run's for a time (`window`), or while that run has not ended (`active`; it expires at infinity).
alter table idempotency_keys add column scope text not null default 'window' check (scope in ('window', 'active'));
alter table idempotency_keys add column since timestamptz not null default clock_timestamp();
update idempotency_keys k set since = r.created_at from runs r where r.run_id = k.run_id;
create index idempotency_keys_expired on idempotency_keys (expires_at);
create index idempotency_keys_active on idempotency_keys (cluster, run_id) where scope = 'active';

-- The run that calls of one debounce key put off, and until when they may. Its row is the lock such calls take.
create table debounces (
    cluster text not null,
    namespace text not null,
    task text not null,
    key text not null,
    run_id uuid not null,
    until timestamptz not null,
    touched_at timestamptz not null default clock_timestamp(),
    primary key (cluster, namespace, task, key)
);
create index debounces_expired on debounces (until);

-- Calls that a throttle let through, by slice of its period: {"slice number": calls}.
create table throttles (
    cluster text not null,
    namespace text not null,
    task text not null,
    key text not null,
    counts json not null default '{}',
    expires_at timestamptz not null default clock_timestamp(),
    primary key (cluster, namespace, task, key)
);
create index throttles_expired on throttles (expires_at);

-- Ends a statement that took a key for a run which could not be inserted: the key goes back with it.
create function key_without_run() returns text language plpgsql as $$
begin
    raise exception 'a key was taken for a run that is not there' using errcode = 'MP001';
end
$$;

-- A head comes and goes with its run: they are inserted by one statement. The foreign key locked each new run once more
-- (a fifth of the cost of an insertion), so that heads go by a trigger instead.
alter table run_heads drop constraint run_heads_run_id_fkey;
create function delete_heads() returns trigger language plpgsql as $$
begin
    delete from run_heads h using gone g where h.run_id = g.run_id;
    return null;
end
$$;
create trigger delete_heads after delete on runs referencing old table as gone
    for each statement execute function delete_heads();
