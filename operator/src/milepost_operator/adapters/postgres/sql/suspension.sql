-- name: put_waits
-- A wait that is met again goes on as it was: its moment is that of the first time.
insert into waits (wait_id, run_id, key, kind, until, name, child_run)
select gen_random_uuid(), w.run_id, w.key, w.kind, coalesce(w.until, clock_timestamp() + make_interval(secs => w.seconds)), w.name, w.child
from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::float8[], $7::timestamptz[])
    with ordinality as w (run_id, key, kind, name, child, seconds, until, n)
order by w.n
on conflict (run_id, key) do update set armed = true;

-- name: strange_child
-- The first of these runs that is not a child of this one.
select c.id from unnest($2::uuid[]) as c (id)
where not exists (select 1 from runs r where r.run_id = c.id and r.parent_run = $1)
limit 1;

-- name: resolve_waits
-- For locked runs that sleep: signals in their order to waits in theirs, children that have ended, moments that came.
with open as (
    select w.* from waits w join runs r on r.run_id = w.run_id
    where w.run_id = any($1) and r.state = 'suspended' and w.armed and w.resolved_at is null
), wanted as (
    select wait_id, run_id, name, row_number() over (partition by run_id, name order by ordinal) as n
    from open where kind = 'signal'
), kept as (
    select run_id, seq, name, payload, row_number() over (partition by run_id, name order by seq) as n
    from signals where run_id = any($1) and taken_by is null
), delivered as (
    select w.wait_id, k.run_id, k.seq, k.payload from wanted w join kept k using (run_id, name, n)
), taken as (
    update signals s set taken_by = d.wait_id from delivered d
    where s.run_id = d.run_id and s.seq = d.seq and s.taken_by is null
), found as (
    select wait_id, false as timed_out, payload as resolution from delivered
    union all
    select o.wait_id, false,
           case when c.result_object is null
                then json_build_object('state', c.state, 'result', c.result, 'error', c.error, 'reason', c.reason)
                else json_build_object('state', c.state, 'result', c.result, 'error', c.error, 'reason', c.reason,
                                       'resultBytes', (select b.bytes from objects b where b.object_id = c.result_object))
           end
    from open o join runs c on c.run_id = o.child_run
    where o.kind = 'child' and c.finished_at is not null
    union all
    select wait_id, kind <> 'timer', null from open where until <= clock_timestamp()
), first as (
    select distinct on (wait_id) wait_id, timed_out, resolution from found order by wait_id, timed_out
)
update waits w set resolved_at = clock_timestamp(), timed_out = f.timed_out, resolution = f.resolution
from first f where w.wait_id = f.wait_id and w.resolved_at is null;

-- name: resume
-- Of locked runs those with a wait that is resolved: back to their old place, the time they slept is not theirs.
with woken as (
    select w.run_id, string_agg(w.kind || ' ' || w.key, ', ' order by w.ordinal) as what
    from waits w join runs r on r.run_id = w.run_id
    where w.run_id = any($1) and r.state = 'suspended' and w.armed and w.resolved_at is not null
    group by w.run_id
), resumed as (
    update runs r
    set state = 'queued', next_cause = 'resume', reason = null, message = null,
        run_deadline_at = r.run_deadline_at + (clock_timestamp() - r.suspended_at), suspended_at = null,
        event_count = r.event_count + 1, rev = r.rev + 1
    from woken w where r.run_id = w.run_id and (select tell_keys(array(select run_id from woken)))
    returning r.run_id, r.event_count, w.what
)
insert into run_events (run_id, seq, reason, message)
select run_id, event_count, 'RunResumed', left('woken by ' || what, 900) from resumed
returning run_id;

-- name: disarm
-- A run that does not sleep takes no signal; the moments of its waits wake nobody.
update waits w set armed = false
from runs r where w.run_id = any($1) and w.armed and r.run_id = w.run_id and r.state <> 'suspended';

-- name: lock_woken
-- Runs that something happened to while they slept. One that another replica holds is served there.
-- Scalar subqueries and an array: one probe for each row, whatever the planner thinks of the backlog.
with due as (
    (select k.run_id from wakes k where (select r.cluster from runs r where r.run_id = k.run_id) = $1
     order by k.wake_id limit $2)
    union
    (select w.run_id from waits w
     where w.armed and w.resolved_at is null and w.until <= clock_timestamp()
       and (select r.cluster from runs r where r.run_id = w.run_id) = $1
     order by w.until limit $2)
)
select r.run_id from runs r
where r.run_id = any(array(select run_id from due))
order by r.run_id
for no key update skip locked;

-- name: take_wakes
-- What was resolved from outside (a token, an approval, an event): the first answer counts.
with taken as (
    delete from wakes where run_id = any($1) returning wake_id, wait_id, resolution
), first as (
    select distinct on (wait_id) wait_id, resolution from taken where wait_id is not null order by wait_id, wake_id
)
update waits w set resolved_at = clock_timestamp(), resolution = f.resolution
from first f where w.wait_id = f.wait_id and w.resolved_at is null;

-- name: signal_sent
select seq from signals where run_id = $1 and signal_id = $2;

-- name: signals_kept
select count(*)::int from signals where run_id = $1 and taken_by is null;

-- name: put_signal
insert into signals (run_id, name, payload, signal_id) values ($1, $2, $3, $4) returning seq;

-- name: resolved_waits
-- Less those that the run has read and recorded under the same key.
select w.run_id, w.key, w.kind, w.timed_out, w.resolution from waits w
where w.run_id = any($1) and w.resolved_at is not null
  and not exists (select 1 from records r where r.run_id = w.run_id and r.key = w.key and r.kind = 'step')
order by w.ordinal;

-- name: expire_queued
-- Runs that waited for their first admission longer than they may; a paused queue's clock stands still, and what it
-- stood still for is given back here.
with late as (
    select r.run_id, r.expires_at, greatest(paused_time(r.cluster, r.namespace, r.queue, r.created_at) - coalesce(r.thawed, '0'), '0') as owed
    from runs r
    where r.cluster = $1 and r.attempt = 0 and r.state in ('queued', 'delayed') and r.expires_at <= clock_timestamp()
      and not exists (select 1 from queues q where q.cluster = r.cluster and q.namespace = r.namespace
                      and q.name = r.queue and q.paused)
    order by r.expires_at
    limit $2
    for no key update of r skip locked
), judged as (
    select run_id, owed, expires_at + owed <= clock_timestamp() as over from late
), thawed as (
    update runs r set expires_at = r.expires_at + j.owed, thawed = coalesce(r.thawed, '0') + j.owed
    from judged j where r.run_id = j.run_id and not j.over
), expired as (
    update runs r
    set state = 'expired', reason = 'QueueTTL', message = 'not admitted within its ttlSeconds', finished_at = clock_timestamp(),
        event_count = r.event_count + 1, rev = r.rev + 1
    where r.run_id = any(array(select run_id from judged where over))
    returning r.run_id, r.event_count, r.message
), told as (
    insert into run_events (run_id, seq, reason, message, warning, terminal)
    select run_id, event_count, 'RunExpired', message, true, true from expired
)
select over as expired from judged;

-- name: put_wake
-- Kept beside the run, whose row it does not lock: it is resolved when the run is next looked at.
insert into wakes (run_id, wait_id, resolution)
select w.run_id, w.wait_id, $4 from waits w join runs r on r.run_id = w.run_id
where r.cluster = $1 and w.run_id = $2 and w.key = $3 and w.kind in ('event', 'token', 'approval')
  and w.resolved_at is null and r.finished_at is null
returning wake_id;
