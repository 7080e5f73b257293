-- name: waiting_has_a_next_moment
-- 1: whoever waits waits visibly: with a reason, and for a moment, a wait or an event that will come.
select (select count(*) from runs r where r.cluster = $1 and r.state = 'held' and (r.reason is null or r.held_at is null))
     + (select count(*) from runs r where r.cluster = $1 and r.state = 'suspended'
        and (r.reason is null or not exists (
            select 1 from waits w where w.run_id = r.run_id and w.armed and w.resolved_at is null)))
     + (select count(*) from runs r join run_heads h on h.run_id = r.run_id
        join attempts a on a.run_id = r.run_id and a.attempt = r.attempt
        where r.cluster = $1 and r.state in ('admitted', 'running', 'cancelling')
          and (h.token is null or (r.state <> 'admitted' and (h.lease_until is null or a.deadline_at is null))
               or (r.state = 'cancelling' and r.cancel_deadline_at is null)));

-- name: moments_are_kept
-- 1: while the api is at its duties, nobody waits a minute beyond the moment that was promised.
with late as (
    select clock_timestamp() - interval '1 minute' as at from service_pulse
    where cluster = $1 and seen_at > clock_timestamp() - interval '3 seconds'
      and up_since < clock_timestamp() - interval '1 minute'
)
select (select count(*) from late l join runs r on r.ready_at < l.at
        where r.cluster = $1 and r.state in ('delayed', 'backoff'))
     + (select count(*) from late l join runs r on r.deadline_at < l.at
        where r.cluster = $1 and r.deadline_at is not null and r.finished_at is null)
     + (select count(*) from late l join runs r on r.expires_at < l.at
        where r.cluster = $1 and r.expires_at is not null and r.attempt = 0 and r.state in ('queued', 'delayed')
          and r.expires_at + paused_time(r.cluster, r.namespace, r.queue, r.created_at) - coalesce(r.thawed, '0') < l.at
          and not exists (select 1 from queues q where q.cluster = r.cluster and q.namespace = r.namespace
                          and q.name = r.queue and (q.paused or q.updated_at > l.at)))
     + (select count(*) from late l join waits w on w.until < l.at join runs r on r.run_id = w.run_id
        where r.cluster = $1 and w.armed and w.resolved_at is null and r.state = 'suspended');

-- name: ended_holds_nothing
-- 7: nobody can write for an ended run, and none of its attempts is alive.
select (select count(*) from run_heads h join runs r on r.run_id = h.run_id
        where r.cluster = $1 and h.token is not null and r.finished_at is not null)
     + (select count(*) from attempts a join runs r on r.run_id = a.run_id
        where r.cluster = $1 and a.state <> 'ended' and r.finished_at is not null);

-- name: sleepers_hold_nothing
-- 4: a suspended run has no live attempt, no writer and no pod at work.
select count(*) from runs r left join run_heads h on h.run_id = r.run_id
where r.cluster = $1 and r.state = 'suspended'
  and (h.token is not null
       or exists (select 1 from attempts a join pods p on p.pod_id = a.pod_id
                  where a.run_id = r.run_id
                    and (a.state <> 'ended' or p.run_id = r.run_id and p.state not in ('closing', 'closed'))));

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
