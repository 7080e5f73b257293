-- Rows are keyed (cluster, namespace, name). JSON of users is kept as json, not jsonb: what was written is what is read.

create table tasks (
    cluster text not null,
    namespace text not null,
    name text not null,
    uid text not null,
    generation bigint not null,
    present boolean not null default true,
    version bigint not null,
    queue text not null,
    retry json not null,
    timeouts json not null,
    updated_at timestamptz not null default clock_timestamp(),
    primary key (cluster, namespace, name)
);

create table task_versions (
    cluster text not null,
    namespace text not null,
    task text not null,
    version bigint not null,
    shape_hash text not null,
    shape json not null,
    image_digest text,
    created_at timestamptz not null default clock_timestamp(),
    primary key (cluster, namespace, task, version),
    unique (cluster, namespace, task, shape_hash)
);

create table queues (
    cluster text not null,
    namespace text not null,
    name text not null,
    uid text not null,
    generation bigint not null,
    present boolean not null default true,
    concurrency integer check (concurrency >= 0),
    paused boolean not null default false,
    updated_at timestamptz not null default clock_timestamp(),
    primary key (cluster, namespace, name)
);

create table schedules (
    schedule_id uuid primary key,
    cluster text not null,
    namespace text not null,
    task text not null,
    name text not null,
    spec json not null,
    paused boolean not null default false,
    cursor_at timestamptz,
    next_at timestamptz,
    unique (cluster, namespace, task, name)
);

create sequence fencing_tokens;

create table runs (
    run_id uuid primary key,
    cluster text not null,
    namespace text not null,
    name text not null,
    task text not null,
    version bigint,
    queue text not null,
    state text not null check (state in (
        'delayed', 'queued', 'admitted', 'running', 'suspended', 'backoff', 'held', 'cancelling',
        'succeeded', 'failed', 'cancelled', 'timedOut', 'expired')),
    reason text,
    message text,
    input json not null,
    input_hash bytea not null,
    tags text[] not null default '{}',
    idempotency_key text,
    priority integer not null default 0,
    concurrency_key text,
    ready_at timestamptz not null default clock_timestamp(),
    order_at timestamptz not null default clock_timestamp(),
    held_at timestamptz,
    expires_at timestamptz,
    deadline_at timestamptz,
    run_deadline_at timestamptz,
    retry json,
    timeouts json,
    attempt integer not null default 0 check (attempt >= 0),
    attempts_counted integer not null default 0 check (attempts_counted >= 0),
    infra_streak integer not null default 0,
    next_cause text not null default 'first' check (next_cause in ('first', 'retry', 'resume', 'infra')),
    dead_lettered boolean not null default false,
    cancel_requested_at timestamptz,
    cancel_requested_by text,
    cancel_deadline_at timestamptz,
    origin text not null check (origin in ('kubectl', 'api', 'schedule', 'event', 'webhook', 'parent', 'retry', 'redrive', 'replay')),
    origin_run uuid,
    origin_seq bigint,
    parent_run uuid,
    root_run uuid,
    schedule_id uuid references schedules,
    slot text,
    intent_uid text,
    result json,
    error json,
    created_at timestamptz not null default clock_timestamp(),
    admitted_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    rev bigint not null default 1,
    projected_rev bigint not null default 0,
    projected_at timestamptz,
    cr_uid text,
    events_upto integer not null default 0,
    event_count integer not null default 0,
    notes integer not null default 0,
    shown_seq bigint not null default 0,
    shown_progress real,
    unique (cluster, namespace, name),
    unique (schedule_id, slot),
    constraint finished_iff_terminal check (
        (finished_at is not null) = (state in ('succeeded', 'failed', 'cancelled', 'timedOut', 'expired'))),
    constraint dead_letters_failed check (not dead_lettered or state = 'failed'),
    constraint held_has_time check (state <> 'held' or held_at is not null),
    constraint admitted_has_version check (version is not null or state not in ('admitted', 'running'))
) with (fillfactor = 80);

create unique index runs_intent on runs (cluster, intent_uid) where intent_uid is not null;
create index runs_claim on runs (cluster, namespace, queue, order_at, run_id) where state = 'queued';
create index runs_slots on runs (cluster, namespace, queue) where state in ('admitted', 'running', 'cancelling');
create index runs_due on runs (ready_at) where state in ('delayed', 'backoff');
create index runs_held on runs (cluster, namespace, task) where state = 'held';
create index runs_live on runs (run_id) where state in ('admitted', 'running', 'cancelling');
create index runs_behind on runs (run_id) where rev > projected_rev;
create index runs_by_created on runs (cluster, namespace, created_at desc, run_id desc);
create index runs_by_task on runs (cluster, namespace, task, created_at desc, run_id desc);
create index runs_children on runs (parent_run) where parent_run is not null;

-- What changes with every record and heartbeat: narrow and without an index on it, so that updates stay in the page.
-- `token` is the fence: the only attempt that can write. Null: nobody can.
create table run_heads (
    run_id uuid primary key references runs on delete cascade,
    attempt integer not null default 0,
    token bigint,
    pod_id text,
    beat_at timestamptz,
    lease_until timestamptz,
    last_seq bigint not null default 0,
    last_key text,
    records integer not null default 0,
    records_bytes bigint not null default 0,
    progress real check (progress between 0 and 1),
    progress_message text
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

create table pods (
    pod_id text primary key,
    cluster text not null,
    namespace text not null,
    task text not null,
    version bigint not null,
    template_hash text,
    state text not null check (state in ('wanted', 'creating', 'created', 'bound', 'closing', 'closed')),
    run_id uuid,
    attempt integer,
    epoch bigint,
    job_uid text,
    pod_uid text,
    pod_name text,
    created_at timestamptz not null default clock_timestamp(),
    launched_at timestamptz,
    bound_at timestamptz,
    closing_at timestamptz,
    closed_at timestamptz,
    constraint closed_has_time check ((state = 'closed') = (closed_at is not null))
);

create index pods_open on pods (cluster, state) where state <> 'closed';

create table attempts (
    run_id uuid not null references runs on delete cascade,
    attempt integer not null check (attempt > 0),
    token bigint not null unique,
    cause text not null check (cause in ('first', 'retry', 'resume', 'infra')),
    state text not null check (state in ('reserved', 'running', 'ended')),
    pod_id text not null references pods,
    resumed_after bigint not null default 0,
    settled boolean not null default false,
    reason text,
    message text,
    counted boolean not null default false,
    infra boolean not null default false,
    evidence json not null default '{}',
    reserved_at timestamptz not null default clock_timestamp(),
    started_at timestamptz,
    deadline_at timestamptz,
    ended_at timestamptz,
    primary key (run_id, attempt),
    constraint ended_has_reason check ((state = 'ended') = (ended_at is not null and reason is not null))
);

create unique index attempts_one_live on attempts (run_id) where state <> 'ended';

create table records (
    run_id uuid not null references runs on delete cascade,
    seq bigint not null,
    kind text not null check (kind in ('step', 'checkpoint')),
    key text not null check (octet_length(key) between 1 and 512),
    attempt integer not null,
    write_id text not null,
    value json not null,
    types json,
    fingerprint text,
    bytes integer not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (run_id, seq),
    unique (run_id, write_id)
);

create unique index records_first_write on records (run_id, key) where kind = 'step';
create index records_newest on records (run_id, key, seq desc) where kind = 'checkpoint';

create table run_events (
    run_id uuid not null references runs on delete cascade,
    seq integer not null,
    reason text not null,
    message text not null,
    warning boolean not null default false,
    terminal boolean not null default false,
    at timestamptz not null default clock_timestamp(),
    primary key (run_id, seq)
);

create unique index run_events_one_terminal on run_events (run_id) where terminal;

create table idempotency_keys (
    cluster text not null,
    namespace text not null,
    task text not null,
    key text not null,
    run_id uuid not null,
    run_name text not null,
    input_hash bytea not null,
    expires_at timestamptz not null,
    primary key (cluster, namespace, task, key)
);

-- A wait that a suspended run sleeps on, and what wakes it; a signal may come before its wait.
create table waits (
    wait_id uuid primary key,
    run_id uuid not null references runs on delete cascade,
    key text not null,
    kind text not null check (kind in ('timer', 'signal', 'child', 'event', 'token', 'approval')),
    until timestamptz,
    detail json,
    resolved_at timestamptz,
    resolution json,
    unique (run_id, key)
);

create index waits_timers on waits (until) where resolved_at is null;

create table signals (
    run_id uuid not null references runs on delete cascade,
    seq bigint generated always as identity,
    name text not null,
    payload json not null,
    created_at timestamptz not null default clock_timestamp(),
    taken_by uuid references waits,
    primary key (run_id, seq)
);

create table wakes (
    wake_id bigint generated always as identity primary key,
    run_id uuid not null references runs on delete cascade,
    wait_id uuid,
    created_at timestamptz not null default clock_timestamp()
);

-- One row a cluster: the epoch fences launches; an operator of an older one can't act.
create table leadership (
    cluster text primary key,
    epoch bigint not null,
    holder text not null,
    since timestamptz not null default clock_timestamp()
);

-- One row a cluster: since when heartbeats have been acceptable without a gap. Leases lapse only after a full lease of
-- that.
create table service_pulse (
    cluster text primary key,
    up_since timestamptz not null default clock_timestamp(),
    seen_at timestamptz not null default clock_timestamp()
);
