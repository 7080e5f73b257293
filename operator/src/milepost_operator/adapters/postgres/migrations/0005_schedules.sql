-- cursor_at: all slots up to it are dealt with. next_at: the first that is not. due_at: when to look at the schedule;
-- null where nothing can fire (paused, no Task, no slot left, deleted).
-- A deleted schedule keeps its row while runs point to it: made again under its name, it fires no slot a second time.
alter table schedules
    add column managed boolean not null default false,
    add column active boolean not null default true,
    add column due_at timestamptz,
    add column paused_by text,
    add column fired bigint not null default 0,
    add column overlapped bigint not null default 0,
    add column dropped bigint not null default 0,
    add column last_slot text,
    add column note text,
    add column note_at timestamptz,
    add column created_at timestamptz not null default clock_timestamp(),
    add column updated_at timestamptz not null default clock_timestamp(),
    add column deleted_at timestamptz,
    add constraint due_only_when_it_can_fire check (
        due_at is null or (active and not paused and deleted_at is null and next_at is not null));

create index schedules_due on schedules (cluster, due_at) where due_at is not null;
create index runs_of_schedule on runs (schedule_id) where schedule_id is not null and finished_at is null;
