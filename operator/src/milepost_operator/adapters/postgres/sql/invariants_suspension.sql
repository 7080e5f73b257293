-- name: waiting_has_a_next_moment
-- 1: whoever waits waits visibly: with a reason, and for a moment, a wait or an event that will come.
select count(*) from runs r left join run_heads h on h.run_id = r.run_id where r.cluster = $1 and (
    (r.state in ('delayed', 'backoff') and r.ready_at is null)
    or (r.state = 'held' and (r.reason is null or r.held_at is null))
    or (r.state = 'suspended' and (r.reason is null or r.suspended_at is null or not exists (
        select 1 from waits w where w.run_id = r.run_id and w.armed and w.resolved_at is null)))
    or (r.state = 'running' and (h.token is null or h.lease_until is null or not exists (
        select 1 from attempts a where a.run_id = r.run_id and a.attempt = r.attempt and a.deadline_at is not null)))
    or (r.state = 'cancelling' and r.cancel_deadline_at is null));

-- name: moments_are_kept
-- 1: while the api is at its duties, nobody waits a minute beyond the moment that was promised.
select count(*) from runs r join service_pulse p on p.cluster = r.cluster
where r.cluster = $1 and r.finished_at is null
  and p.seen_at > clock_timestamp() - interval '3 seconds' and p.up_since < clock_timestamp() - interval '1 minute'
  and ((r.state in ('delayed', 'backoff') and r.ready_at < clock_timestamp() - interval '1 minute')
       or r.deadline_at < clock_timestamp() - interval '1 minute'
       or (r.state in ('queued', 'delayed') and r.attempt = 0 and r.expires_at < clock_timestamp() - interval '1 minute'
           and not exists (select 1 from queues q where q.cluster = r.cluster and q.namespace = r.namespace
                           and q.name = r.queue and (q.paused or q.updated_at > clock_timestamp() - interval '1 minute')))
       or (r.state = 'suspended' and exists (
           select 1 from waits w where w.run_id = r.run_id and w.armed and w.until < clock_timestamp() - interval '1 minute')));

-- name: ended_holds_nothing
-- 7: an ended run has no live attempt, nobody can write for it, and its result is that of a success.
select count(*) from runs r left join run_heads h on h.run_id = r.run_id
where r.cluster = $1 and r.finished_at is not null
  and (h.token is not null or (r.result is not null and r.state <> 'succeeded')
       or exists (select 1 from attempts a where a.run_id = r.run_id and a.state <> 'ended'));

-- name: sleepers_hold_nothing
-- 4: a suspended run has no live attempt, no writer and no pod at work.
select count(*) from runs r left join run_heads h on h.run_id = r.run_id
where r.cluster = $1 and r.state = 'suspended'
  and (h.token is not null
       or exists (select 1 from attempts a join pods p on p.pod_id = a.pod_id
                  where a.run_id = r.run_id and (a.state <> 'ended' or p.state not in ('closing', 'closed'))));

-- name: waits_resolve_once
-- 11: a signal that was taken resolved the one wait that took it, and a wait that a signal resolved took one.
select (select count(*) from signals s join runs r on r.run_id = s.run_id join waits w on w.wait_id = s.taken_by
        where r.cluster = $1 and (w.run_id <> s.run_id or w.name <> s.name or w.resolved_at is null or w.timed_out))
     + (select count(*) from waits w join runs r on r.run_id = w.run_id
        where r.cluster = $1 and w.kind = 'signal' and w.resolved_at is not null and not w.timed_out
          and (select count(*) from signals s where s.taken_by = w.wait_id) <> 1);

-- name: nothing_that_came_is_slept_through
-- 11: no run sleeps on a wait that is resolved, on a signal that is kept for it, or on a child that ended unnoticed.
select count(*) from runs r where r.cluster = $1 and r.state = 'suspended' and exists (
    select 1 from waits w where w.run_id = r.run_id and w.armed and (
        w.resolved_at is not null
        or (w.kind = 'signal' and exists (
            select 1 from signals s where s.run_id = r.run_id and s.name = w.name and s.taken_by is null))
        or (w.kind = 'child' and not exists (select 1 from wakes k where k.run_id = r.run_id) and exists (
            select 1 from runs c where c.run_id = w.child_run and c.finished_at is not null))));
