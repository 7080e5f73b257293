-- name: due
-- Runs whose CR is behind. Those of the API are shown from their admission on, so that a backlog makes no objects.
-- A run made with kubectl whose CR is gone stays gone. Mere progress waits for its interval.
-- Two searches: with `or` between them the planner walks all runs. What may be shown is the index's own condition.
with behind as (
    select r.run_id from runs r
    where r.cluster = $1 and r.rev > r.projected_rev
      and (case when r.origin = 'kubectl' then r.cr_uid is not null else r.attempt > 0 or r.cr_uid is not null end)
    order by r.run_id
    limit $2
), moving as (
    select r.run_id from runs r
    join run_heads h on h.run_id = r.run_id
    where r.cluster = $1 and r.state = 'running' and r.projected_at < clock_timestamp() - $3::interval
      and (h.last_seq <> r.shown_seq or h.progress is distinct from r.shown_progress)
      and (r.origin <> 'kubectl' or r.cr_uid is not null)
    order by r.run_id
    limit $2
)
select run_id from behind union select run_id from moving
order by run_id
limit $2;

-- name: projected
-- Which object a run was made with is intake's to say: a write that was under way may tell of one that is gone.
update runs r
set projected_rev = greatest(projected_rev, $2), projected_at = clock_timestamp(),
    cr_uid = case when origin = 'kubectl' or intent_uid is not null then cr_uid else coalesce($3, cr_uid) end,
    events_upto = greatest(events_upto, $4), shown_seq = coalesce($5, h.last_seq, 0),
    shown_progress = case when $5 is null then h.progress else $6 end
from run_heads h
where r.run_id = $1 and h.run_id = r.run_id;

-- name: lost_crs
-- Projections that a complete list no longer has come back while they are live.
update runs set cr_uid = null, projected_rev = 0
where cluster = $1 and origin <> 'kubectl' and cr_uid is not null and cr_uid <> all($2)
  and projected_at < $3
  and state not in ('succeeded', 'failed', 'cancelled', 'timedOut', 'expired')
returning run_id;

-- name: new_events
select seq, reason, message, warning, at from run_events where run_id = $1 and seq > $2 order by seq limit 20;

-- name: view_columns
-- Completed by the caller with a WHERE clause of its own over `r`.
select r.run_id, r.namespace, r.name, r.task, r.queue, r.state, r.reason, r.message, r.rev, r.projected_rev, r.attempt,
       r.attempts_counted, r.retry, r.version, r.origin, r.intent_uid, r.cr_uid, r.events_upto, r.tags,
       r.idempotency_key, a.pod_id, p.pod_name, coalesce(h.last_seq, 0) as last_seq, h.last_key,
       case when a.attempt > 1 then a.resumed_after end as resumed_after, h.progress, h.progress_message,
       r.input, r.result, o.bytes as result_bytes, r.error, r.dead_lettered, r.origin_run, r.origin_seq, r.redriven_by, r.created_at, r.ready_at, r.admitted_at, r.started_at, r.finished_at
from runs r
left join run_heads h on h.run_id = r.run_id
left join attempts a on a.run_id = r.run_id and a.attempt = r.attempt
left join pods p on p.pod_id = a.pod_id
left join objects o on o.object_id = r.result_object;

-- name: attempts_of
select attempt, cause, state, reason, message, counted, pod_id, resumed_after, started_at, ended_at, evidence
from attempts where run_id = $1 order by attempt;

-- name: schema_version
select max(number) as number from schema_migrations;
