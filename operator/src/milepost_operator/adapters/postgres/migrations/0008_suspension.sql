-- What a suspended run sleeps on and what wakes it, and steps that failed for good.

-- The time since when a run is suspended: `runSeconds` stands still from then on.
alter table runs add column suspended_at timestamptz;
alter table runs
    add constraint suspended_has_time check (state <> 'suspended' or suspended_at is not null),
    add constraint result_of_success check (result is null or state = 'succeeded');
create index runs_suspended on runs (cluster, namespace, task) where state = 'suspended';

-- What a duty looks for each second, whatever the backlog.
create index runs_past_deadline on runs (deadline_at) where deadline_at is not null and finished_at is null;
create index runs_past_time on runs (run_deadline_at)
    where run_deadline_at is not null and state in ('queued', 'backoff', 'delayed', 'held');
create index runs_past_ttl on runs (expires_at)
    where expires_at is not null and attempt = 0 and state in ('queued', 'delayed');

-- `armed`: the run sleeps on it now. A wait of an earlier suspension keeps its row, so that the same wait, met again,
-- goes on to the same moment. `ordinal`: of two that want the same signal, the earlier gets it.
alter table waits
    add column ordinal bigint generated always as identity,
    add column name text,
    add column child_run uuid,
    add column armed boolean not null default true,
    add column timed_out boolean not null default false,
    add column created_at timestamptz not null default clock_timestamp(),
    add constraint resolution_has_time check (resolved_at is not null or (resolution is null and not timed_out));

drop index waits_timers;
create index waits_timers on waits (until) where armed and resolved_at is null;

-- A signal that is sent again with its id is the same signal.
alter table signals add column signal_id text;
create unique index signals_once on signals (run_id, signal_id) where signal_id is not null;
create index signals_kept on signals (run_id, name, seq) where taken_by is null;

-- Whoever ends a child adds a row here and never touches its parent: not even by the lock of a foreign key.
alter table wakes
    drop constraint wakes_run_id_fkey,
    add column resolution json;
create index wakes_of_run on wakes (run_id);

create function wake_parent() returns trigger language plpgsql as $$
begin
    insert into wakes (run_id)
    select r.run_id from runs r where r.run_id = new.parent_run and r.finished_at is null;
    return null;
end
$$;

create trigger child_ended after update of finished_at on runs for each row
when (old.finished_at is null and new.finished_at is not null and new.parent_run is not null)
execute function wake_parent();

-- `value` is then the error: its type, message and arguments.
alter table records add column failed boolean not null default false;
