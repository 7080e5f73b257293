-- Control while running: who stopped or resized a queue and since when, its circuit breaker, and what waiting runs show.

-- `paused` says whether anything may be admitted; `paused_by` who said so through the API, `spec_paused` that the
-- manifest does. `held_since`: since when it is paused, by whomever; queue TTLs stand still from then on.
alter table queues
    add column pause_reason text not null default '',
    add column held_since timestamptz,
    add column override_by text,
    add column override_at timestamptz,
    add column breaker json,
    add column breaker_phase text not null default 'closed' check (breaker_phase in ('closed', 'open', 'halfOpen')),
    add column breaker_since timestamptz,
    add column breaker_until timestamptz,
    add column breaker_failures timestamptz[] not null default '{}',
    add column breaker_passed integer not null default 0 check (breaker_passed >= 0),
    add column probe_room integer check (probe_room >= 0),
    add constraint open_has_an_end check (breaker_phase <> 'open' or breaker_until is not null);

create index queues_broken on queues (cluster) where breaker_phase <> 'closed';

-- Ends of attempts that a breaker has not judged yet: inserted beside the end, without the queue's lock.
create table breaker_outcomes (
    outcome_id bigint generated always as identity primary key,
    cluster text not null,
    namespace text not null,
    queue text not null,
    verdict text not null check (verdict in ('success', 'failure')),
    admitted_at timestamptz not null,
    ended_at timestamptz not null default clock_timestamp()
);

create index breaker_outcomes_of_queue on breaker_outcomes (cluster, namespace, queue);

-- What a run waits for now (`wait_code`, since `wait_since`), and the code that its object was last told (`noted`).
alter table runs
    add column wait_code text,
    add column wait_since timestamptz,
    add column wait_checked_at timestamptz,
    add column noted text;

-- Few rows: only runs that have an object and may still tell it something.
create index runs_to_note on runs (wait_checked_at nulls first, run_id)
    where state = 'queued' and cr_uid is not null and notes < 2;

-- What a resumed queue gives back its time. The queue leads: no search by time or cluster alone should take this way.
create index runs_with_ttl on runs (queue, namespace, cluster, run_id)
    where expires_at is not null and attempt = 0 and state in ('queued', 'delayed', 'held');
