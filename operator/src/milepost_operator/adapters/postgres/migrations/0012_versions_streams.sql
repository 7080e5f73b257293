-- Which version of its Task the next attempt of a run takes.

-- `pinned`: that of the run's first admission; `latest`: the Task's at each admission. `unpinned`: all runs that wait
-- have heard of a change to `latest`.
alter table tasks
    add column versioning text not null default 'pinned' check (versioning in ('pinned', 'latest')),
    add column unpinned boolean not null default true;

-- A run that waits has no version: admission gives it the Task's. One that is held keeps it, since what is decided of it
-- is about the code it had.
create function let_go_of_version() returns trigger language plpgsql set search_path from current as $$
begin
    if exists (select from tasks t where t.cluster = new.cluster and t.namespace = new.namespace and t.name = new.task
               and t.versioning = 'latest') then
        new.version := null;
    end if;
    return new;
end $$;

create trigger let_go_of_version before update of state on runs for each row
    when (old.state in ('admitted', 'running') and new.state in ('queued', 'backoff', 'suspended'))
    execute function let_go_of_version();

-- What a run tells while it runs, in the order of the positions. Bounded in all by a setting: `stream_bytes`.
create table stream_chunks (
    run_id uuid not null,
    position bigint not null,
    attempt integer not null,
    write_id text not null,
    value json not null,
    bytes integer not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (run_id, position),
    unique (run_id, write_id)
);

alter table run_heads
    add column stream_position bigint not null default 0,
    add column stream_bytes bigint not null default 0;
