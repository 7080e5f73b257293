-- What happens to a run after its end: dead letters, retention, lists.

alter table tasks add column retention json;

-- A dead letter leaves the queue once: redriven as one other run, or discarded by someone.
alter table runs add column dead_lettered_at timestamptz;
alter table runs add column redriven_by uuid;
alter table runs add column discarded_at timestamptz;
alter table runs add column discarded_by text;
update runs set dead_lettered_at = finished_at where dead_lettered;
alter table runs add constraint dead_letter_leaves_once check (
    (dead_lettered::int + (redriven_by is not null)::int + (discarded_at is not null)::int)
    = (dead_lettered_at is not null)::int) not valid;
alter table runs validate constraint dead_letter_leaves_once;
alter table runs add constraint poison_is_a_dead_letter check (
    state <> 'failed' or reason is distinct from 'InfrastructureBudgetSpent' or dead_lettered_at is not null) not valid;
alter table runs validate constraint poison_is_a_dead_letter;

alter table run_heads add column records_pruned_at timestamptz;

create unique index runs_redriven on runs (origin_run) where origin = 'redrive';
create unique index runs_redriven_by on runs (redriven_by) where redriven_by is not null;
create index runs_copies on runs (origin_run) where origin in ('retry', 'redrive', 'replay');
create index runs_dead on runs (cluster, namespace, dead_lettered_at desc, run_id desc) where dead_lettered;

-- Lists: whatever the filter, rows come in the order of the page. Of what changes in a run's life only its state is
-- indexed for live runs too; the rest is for ended ones.
create index runs_by_state on runs (cluster, namespace, state, created_at desc, run_id desc);
create index runs_by_queue on runs (cluster, namespace, queue, created_at desc, run_id desc);
create index runs_by_key on runs (cluster, namespace, concurrency_key, created_at desc, run_id desc)
    where concurrency_key <> '';
create index runs_by_idempotency_key on runs (idempotency_key) where idempotency_key is not null;
create index runs_by_finish on runs (cluster, namespace, finished_at desc, run_id desc) where finished_at is not null;
create index runs_by_duration on runs (cluster, namespace, (finished_at - started_at)) where finished_at is not null;
-- Those of a partial index don't count for the planner.
create statistics runs_duration on (finished_at - started_at) from runs;

-- Tags in the order of lists, written once: an index on the array would be written with every change of a run.
create table run_tags (
    cluster text not null,
    namespace text not null,
    tag text not null,
    created_at timestamptz not null,
    run_id uuid not null,
    primary key (cluster, namespace, tag, created_at, run_id)
);

create function tag_run() returns trigger language plpgsql as $$
begin
    insert into run_tags (cluster, namespace, tag, created_at, run_id)
    select distinct new.cluster, new.namespace, tag, new.created_at, new.run_id from unnest(new.tags) tag;
    return null;
end $$;

create trigger tag_run after insert on runs for each row when (new.tags <> '{}') execute function tag_run();

insert into run_tags (cluster, namespace, tag, created_at, run_id)
select distinct r.cluster, r.namespace, t.tag, r.created_at, r.run_id from runs r cross join unnest(r.tags) t(tag);

-- Retention. Ended runs of a task in the order of their end; dead letters stay out of its way.
create index runs_history on runs (cluster, namespace, task, (state = 'succeeded'), finished_at, run_id)
    where finished_at is not null and not dead_lettered;
-- Ended runs that a Run object shows.
create index runs_shown on runs (cluster, namespace, task, (state = 'succeeded'), finished_at desc, run_id)
    where finished_at is not null and cr_uid is not null;

-- Records of a task's runs that ended up to here are pruned: no run is looked at twice.
create table retention_marks (
    cluster text not null,
    namespace text not null,
    task text not null,
    succeeded boolean not null,
    upto timestamptz not null default '-infinity',
    upto_run uuid not null default '00000000-0000-0000-0000-000000000000',
    primary key (cluster, namespace, task, succeeded)
);

-- A pod's row may go before the attempt that names it, and the other way round: the check of a reference would read all
-- attempts for each pod that is deleted.
alter table attempts drop constraint attempts_pod_id_fkey;
-- Deleting a wait looks for the signals it took.
create index signals_taken on signals (taken_by) where taken_by is not null;
