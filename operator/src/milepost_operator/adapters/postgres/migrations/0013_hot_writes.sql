-- What each attempt, event and record cost beyond itself.

-- A reference to the run made each of these insertions look the run up and lock it once more: a sixth of the pages that a
-- claim touches. They are inserted by statements that hold the run's row or its head, so that none can come after the run
-- has gone; those that there are go with it.
alter table attempts drop constraint attempts_run_id_fkey;
alter table run_events drop constraint run_events_run_id_fkey;
alter table records drop constraint records_run_id_fkey;

drop trigger delete_heads on runs;
drop function delete_heads();
create function delete_of_runs() returns trigger language plpgsql as $$
begin
    -- The heads first: whoever writes a record holds its run's head, and what he wrote is seen by the next statement.
    delete from run_heads h using gone g where h.run_id = g.run_id;
    delete from records r using gone g where r.run_id = g.run_id;
    delete from stream_chunks c using gone g where c.run_id = g.run_id;
    delete from run_events e using gone g where e.run_id = g.run_id;
    delete from attempts a using gone g where a.run_id = g.run_id;
    return null;
end
$$;
create trigger delete_of_runs after delete on runs referencing old table as gone
    for each statement execute function delete_of_runs();

-- Nothing looks for the children of a run: a wait names its child. Suspended runs are found by their waits, and where all
-- of them are asked for, by their state.
drop index runs_children;
drop index runs_suspended;

-- A time less an interval is stable: called immutable, the body could not be put in the place of the call, which then cost
-- twenty times as much for each run that is made or queued again.
alter function order_at(timestamptz, integer) stable;
