-- Warm pods: a pod that stays after its attempt and takes the next run of the same warm key.

-- What a Task says of its pods, as its manifest has it.
alter table tasks add column warm json;

-- What new pods look like, beside what their Task's version says: the launcher that leads keeps it here.
alter table leadership add column template_hash text;

-- How a pod of this version differs from one that is the same again after each run.
create function warm_keeps(shape json) returns text language sql immutable parallel safe as $$
    select case
        when shape -> 'command' is not null then 'command'
        when shape #>> '{pod,readOnlyRootFilesystem}' = 'false' then 'root'
        when exists (select from json_array_elements(shape #> '{pod,volumeMounts}') m
                     where coalesce(m ->> 'readOnly', 'false') <> 'true'
                       and not exists (select from json_array_elements(shape #> '{pod,volumes}') v
                                       where v ->> 'name' = m ->> 'name'
                                         and coalesce(v -> 'configMap', v -> 'secret', v -> 'projected', v -> 'downwardAPI', v -> 'image')
                                             is not null)) then 'volumes'
    end
$$;
alter table task_versions add column keeps text generated always as (warm_keeps(shape)) stored;

-- resting: its attempt is settled, what is left of it is tidied up; idle: it waits for work; offered: an attempt is
-- reserved to it, which it has not begun. In the first two it has no run.
-- `reusable`: its sidecar can ask for another attempt; `runs`: attempts that it settled; `reuse_key`: concurrency key of
-- the last one; `cold_reason`: why its attempt needs it, a new pod; `retired`: why it took no more work.
alter table pods drop constraint pods_state_check;
alter table pods
    add column reusable boolean not null default false,
    add column runs integer not null default 0,
    add column reuse_key text,
    add column rested_at timestamptz,
    add column offered_at timestamptz,
    add column cold_reason text,
    add column retired text;
alter table pods
    add constraint pods_state_check check (state in (
        'wanted', 'creating', 'created', 'bound', 'resting', 'idle', 'offered', 'closing', 'closed')) not valid,
    add constraint warm_has_no_run check (
        state not in ('resting', 'idle') or (run_id is null and attempt is null and rested_at is not null)) not valid,
    add constraint offered_has_run check (
        state <> 'offered' or (run_id is not null and attempt is not null and offered_at is not null)) not valid;
alter table pods validate constraint pods_state_check;
alter table pods validate constraint warm_has_no_run;
alter table pods validate constraint offered_has_run;

create index pods_of_task on pods (cluster, namespace, task, version) where state not in ('closing', 'closed');

-- Why an attempt that has begun needed a new pod; null: a warm one took it. All of before this had one of their own.
alter table attempts add column cold_reason text default 'first';
alter table attempts alter column cold_reason drop default;
