-- name: take_to_note
-- Queued runs with an object that may still be told something, those first that were looked at the longest ago.
with due as (
    select run_id from runs
    where cluster = $1 and state = 'queued' and cr_uid is not null and notes < 2
      and (wait_checked_at is null or wait_checked_at < clock_timestamp() - interval '5 seconds')
    order by wait_checked_at nulls first, run_id
    limit $2
    for no key update skip locked
)
update runs r set wait_checked_at = clock_timestamp() from due d where r.run_id = d.run_id
returning r.run_id;

-- name: note_waits
-- What they wait for now.
update runs r
set wait_code = w.code, wait_since = case when r.wait_code = w.code then r.wait_since else clock_timestamp() end
from unnest($1::uuid[], $2::text[]) w (run_id, code)
where r.run_id = w.run_id and r.state = 'queued' and r.wait_code is distinct from w.code;

-- name: show_waits
-- Codes that held for as long as $3 are shown, at most two a run in all its life: each is a write of its object. That a
-- run waits its turn is no news, unless its object says something else.
with queued as (
    select run_id from runs
    where cluster = $1 and state = 'queued' and cr_uid is not null and notes < 2
      and wait_since <= clock_timestamp() - $3::interval and noted is distinct from wait_code
      and (wait_code <> 'Queued' or noted is not null)
    limit $2
    for no key update skip locked
), admitted as (
    select run_id from runs
    where cluster = $1 and state = 'admitted' and notes < 2 and wait_code = reason
      and wait_since <= clock_timestamp() - $3::interval and noted is distinct from wait_code
    limit $2
    for no key update skip locked
)
update runs r
set noted = r.wait_code, reason = r.wait_code, message = case when r.state = 'admitted' then r.message end,
    notes = r.notes + 1, rev = r.rev + 1
from (select run_id from queued union all select run_id from admitted) d
where r.run_id = d.run_id
returning r.run_id;
