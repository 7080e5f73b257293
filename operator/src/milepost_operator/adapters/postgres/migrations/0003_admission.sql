-- Admission: the limits, what is taken of them, and which keys of a queue have runs waiting.

alter table queues
    add column key_concurrency integer check (key_concurrency >= 0),
    add column rate json,
    add column key_rate json,
    add column max_depth integer check (max_depth >= 0),
    add column override_concurrency integer check (override_concurrency >= 0),
    add column spec_paused boolean not null default false,
    add column paused_by text,
    add column paused_at timestamptz;

alter table tasks
    add column concurrency integer check (concurrency >= 0),
    add column semaphores json;

alter table runs
    add column rate_cost integer not null default 1 check (rate_cost >= 1),
    add column bumped_at timestamptz,
    add column semaphores jsonb;

create index tasks_gated on tasks (cluster, namespace) where concurrency is not null or semaphores is not null;

-- One index serves the claim: the entries of each key and task in their order.
drop index runs_claim;
drop index runs_slots;
drop index runs_live;
create index runs_claim on runs (cluster, namespace, queue, concurrency_key, task, order_at, run_id) where state = 'queued';
create index runs_bumped on runs (cluster, namespace, queue, bumped_at, run_id)
    where state = 'queued' and bumped_at is not null;
create index runs_exempt on runs (cluster, namespace, queue, order_at, run_id)
    where state = 'queued' and next_cause in ('resume', 'infra');
create index runs_slots on runs (cluster, namespace, queue, task) where state in ('admitted', 'running', 'cancelling');
create index runs_semaphores on runs (cluster, namespace)
    where state in ('admitted', 'running', 'cancelling') and semaphores is not null;

-- What a rate limit remembers. `counts`: cost admitted in each slice (a 60th of the period of `seconds`), the newest
-- first, 61 of them: any window of the period's length lies within them. `tokens`: what is left in a bucket.
create type rate_state as (at timestamptz, seconds double precision, counts integer[], tokens double precision);

-- Limits that several queues share: `global` (one row a cluster), `semaphore` and `task`. What is taken is counted from
-- the runs once the row is locked.
create table limits (
    cluster text not null,
    namespace text not null,
    kind text not null check (kind in ('global', 'semaphore', 'task')),
    name text not null,
    concurrency integer check (concurrency >= 0),
    primary key (cluster, namespace, kind, name)
);

-- What changes with every claim of a queue; only who holds the lock of the queue's row writes here. Each update is a new
-- entry of the index, read newest first, so that a snapshot which somebody holds (and the versions it keeps) costs nothing.
-- `running`: slots taken, less those that `slot_returns` gives back. `virtual`: the virtual time of fair queueing.
create table queue_states (
    cluster text not null,
    namespace text not null,
    queue text not null,
    turn bigint not null default 0,
    running integer not null default 0,
    virtual bigint not null default 0,
    rate rate_state,
    limits text,
    returns_upto bigint not null default 0,
    swept_at timestamptz not null default '-infinity',
    counted_at timestamptz not null default '-infinity',
    primary key (cluster, namespace, queue, turn)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);

-- A concurrency key of a queue ('' for runs without one). `tasks`: those that have runs waiting under it. `tag`: its
-- place in fair queueing, one more for each admission. `open`: below its limits; else a returned slot opens it, or `opens_at`.
-- `mark`: every entry before it was admitted when it was set; a scan from the beginning is due 80 ms after `swept_at`.
create table queue_keys (
    cluster text not null,
    namespace text not null,
    queue text not null,
    key text not null,
    tasks text[] not null default '{}',
    tag bigint not null default 0,
    running integer not null default 0,
    open boolean not null default true,
    opens_at timestamptz,
    rate rate_state,
    mark_at timestamptz not null default '-infinity',
    mark_id uuid not null default '00000000-0000-0000-0000-000000000000',
    swept_at timestamptz not null default '-infinity',
    touched_at timestamptz not null default clock_timestamp(),
    primary key (cluster, namespace, queue, key)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);

create index queue_keys_order on queue_keys (cluster, namespace, queue, tag, key) where open and tasks <> '{}';
create index queue_keys_newest on queue_keys (cluster, namespace, queue, key, tag);
create index queue_keys_opening on queue_keys (cluster, namespace, queue, opens_at) where opens_at is not null;
create index queue_keys_idle on queue_keys (cluster, touched_at) where tasks = '{}' and running = 0;

-- Slots given back since the last claim of their queue folded them into its counters; negative: taken outside a claim.
create table slot_returns (
    cluster text not null,
    namespace text not null,
    queue text not null,
    return_id bigint generated always as identity,
    key text not null,
    slots integer not null,
    primary key (cluster, namespace, queue, return_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
