-- Code that changes under a run, and the keys that its steps pass on to others.

-- What becomes of a run whose code does not fit its records any more.
alter table tasks
    add column on_change text not null default 'fail' check (on_change in ('fail', 'hold', 'accept'));

-- `accepted_version`: the version whose changes somebody accepted for this run. `key_run`: of a retry or a redrive, the
-- run whose id the idempotency keys of its steps have.
alter table runs
    add column accepted_version bigint,
    add column key_run uuid;
