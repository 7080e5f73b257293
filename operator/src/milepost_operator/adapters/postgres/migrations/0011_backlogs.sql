-- What a backlog costs, and who waits for whom: nothing here grows with the runs that wait.

-- Before one statement queues many runs: their keys are told, and so locked, in one order for all. The trigger of each
-- run would take them as the runs come, and two replicas would wait for each other.
create function tell_keys(p_runs uuid[]) returns boolean language plpgsql as $$
declare
    n record;
begin
    for n in select distinct r.cluster, r.namespace, r.queue, r.concurrency_key, r.task from runs r
             where r.run_id = any(p_runs) order by 1, 2, 3, 4, 5
    loop
        perform tell_waiting(n.cluster, n.namespace, n.queue, n.concurrency_key, n.task, 'infinity');
    end loop;
    return true;
end $$;

-- A slot has one run. Runs without a schedule, nearly all, are not written to this index.
alter table runs drop constraint runs_schedule_id_slot_key;
create unique index runs_slot on runs (schedule_id, slot) where schedule_id is not null;

-- Pauses that are over. What waited meanwhile gets its time back when its TTL comes up: resuming a queue costs the same
-- however much waits in it. `thawed`: what of `expires_at` was given back.
create table queue_pauses (
    cluster text not null,
    namespace text not null,
    queue text not null,
    since timestamptz not null,
    until timestamptz not null,
    primary key (cluster, namespace, queue, until)
);

alter table runs add column thawed interval;

create function paused_time(p_cluster text, p_namespace text, p_queue text, p_since timestamptz) returns interval
language sql stable as $$
    select coalesce(sum(p.until - greatest(p.since, p_since)), interval '0') from queue_pauses p
    where p.cluster = p_cluster and p.namespace = p_namespace and p.queue = p_queue and p.until > p_since
$$;

drop index runs_with_ttl;

-- Runs that lack the same thing lie together.
drop index runs_held;
create index runs_held on runs (cluster, namespace, task, queue, reason, (retry is null)) where state = 'held';

-- Run objects: what is still to be shown (a backlog of the API is not), and whose object went.
drop index runs_behind;
create index runs_behind on runs (run_id) where rev > projected_rev
    and (case when origin = 'kubectl' then cr_uid is not null else attempt > 0 or cr_uid is not null end);
create index runs_cr on runs (cr_uid) where cr_uid is not null;
