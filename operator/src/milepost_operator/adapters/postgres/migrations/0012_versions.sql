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
