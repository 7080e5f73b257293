-- name: one_run_per_slot
-- 8: a schedule's slot has one run; every run of a schedule has a slot.
select (select count(*) from (
            select 1 from runs where cluster = $1 and schedule_id is not null group by schedule_id, slot having count(*) > 1) twice)
     + (select count(*) from runs where cluster = $1 and origin = 'schedule' and (schedule_id is null or slot is null));

-- name: schedules_fire
-- 8: while the service is up, what is due is dealt with within a minute; what has a next slot has a time for it.
select count(*) from schedules s join service_pulse p on p.cluster = s.cluster
where s.cluster = $1 and s.deleted_at is null and s.active and not s.paused
  and (s.due_at < clock_timestamp() - interval '1 minute' and p.up_since < clock_timestamp() - interval '1 minute'
           and p.seen_at > clock_timestamp() - interval '3 seconds'
       or (s.next_at is null) <> (s.due_at is null));
