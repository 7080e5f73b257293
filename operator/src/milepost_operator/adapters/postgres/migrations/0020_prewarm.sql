-- Pods made before there is a run for them, and what is known of a version before it has had one.

-- ahead: is to be launched for no run. From there such a pod is created and bound as any other, imports its task, and is
-- idle; a launcher of an earlier release leaves it alone.
-- `ahead`: the pod was made so, or lost the attempt that it was launched for before it was there. `trouble`: why it does
-- not run, or ended before it could take work.
alter table pods drop constraint pods_state_check;
alter table pods
    add column ahead boolean not null default false,
    add column trouble text;
alter table pods
    add constraint pods_state_check check (state in (
        'ahead', 'wanted', 'creating', 'created', 'bound', 'resting', 'idle', 'offered', 'closing', 'closed')) not valid,
    add constraint ahead_has_no_run check (state <> 'ahead' or (ahead and run_id is null and attempt is null)) not valid;
alter table pods validate constraint pods_state_check;
alter table pods validate constraint ahead_has_no_run;

-- Those on their way, how the newest that were made ahead did, and which of all pods were ended for the sake of others.
create index pods_on_their_way on pods (cluster, namespace, task, version)
    where ahead and run_id is null and state in ('ahead', 'creating', 'created', 'bound');
create index pods_ahead on pods (cluster, namespace, task, version, created_at) where ahead;
create index pods_yielded on pods (cluster, closing_at) where retired = 'room';

-- What the prewarm duty decided for a Task: how many pods it should have now, at work or not; how many of those that are
-- there stay however long they wait; for what; and why pods that it should have are not made.
create table prewarms (
    cluster text not null,
    namespace text not null,
    task text not null,
    target integer not null,
    keep integer not null,
    cause text,
    held_back text,
    message text,
    changed_at timestamptz not null default clock_timestamp(),
    primary key (cluster, namespace, task),
    constraint keeps_its_target check (keep >= target and target >= 0)
);

-- The annotation milepost.dev/restartedAt, and when it was seen to change: pods of before take no more work.
alter table tasks add column restart text, add column restarted_at timestamptz;

-- Whether the image of a new version is pulled ahead; null: as the installation says.
alter table tasks add column prepull boolean;

-- What the import of a version's code left that its runs can't share (JSON list of text), as its pods report it.
alter table task_versions add column not_fork_safe json;

-- The image of a version, pulled before its runs come. `nodes`: on how many it is there by now.
create table image_pulls (
    pull_id text primary key,
    cluster text not null,
    namespace text not null,
    task text not null,
    version bigint not null,
    state text not null default 'wanted' check (state in ('wanted', 'pulling', 'pulled', 'failed', 'given-up')),
    reason text,
    message text,
    nodes integer not null default 0,
    created_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    unique (cluster, namespace, task, version),
    constraint ended_has_time check ((state in ('wanted', 'pulling')) = (ended_at is null))
);
create index image_pulls_open on image_pulls (cluster, created_at) where ended_at is null;
