-- name: list_settings
-- For this transaction: lists are planned for the very values that they ask for, and give up before they hold things up.
select set_config('plan_cache_mode', 'force_custom_plan', true), set_config('statement_timeout', '5000', true);

-- name: namespaces_with_runs
-- By hops through an index: one probe each.
with recursive found as (
    (select namespace from runs where cluster = $1 order by namespace limit 1)
    union all
    select (select r.namespace from runs r where r.cluster = $1 and r.namespace > f.namespace order by r.namespace limit 1)
    from found f where f.namespace is not null
)
select namespace from found where namespace is not null;

-- name: summaries
-- The rows of a page as one JSON array, under their names there (api.views.RunSummaryOut): to hand on rows, each column a
-- value of its own, costs both ends more than the search. What only some have is looked up for those: the pod while it is
-- at work, the resume of later attempts. $3: attempts of a run that knows no policy yet.
select coalesce(json_agg(run), '[]') as shown from (
select r.run_id::text as id, r.name, r.namespace, r.task, r.queue, r.state, r.reason, r.message, r.attempt,
       r.attempts_counted as "attemptsCounted", coalesce((r.retry ->> 'max_attempts')::int, $3) as "maxAttempts", r.version,
       r.origin, r.origin_run::text as "originRun", r.origin_seq as "originSeq", r.tags, r.idempotency_key as "idempotencyKey",
       p.pod_name as "podName", coalesce(h.last_seq, 0) as "lastSeq", h.last_key as "lastCheckpoint",
       a.resumed_after as "resumedAfter", h.progress,
       h.progress_message as "progressMessage", r.dead_lettered as "deadLettered", r.redriven_by::text as "redrivenBy",
       r.created_at as "createdAt", r.ready_at as "readyAt", r.admitted_at as "admittedAt", r.started_at as "startedAt",
       r.finished_at as "finishedAt"
from unnest($1::uuid[], $2::int[]) page (run_id, place)
join runs r on r.run_id = page.run_id
left join run_heads h on h.run_id = r.run_id
left join attempts a on a.run_id = case when r.attempt > 1 then r.run_id end and a.attempt = r.attempt
left join pods p on p.pod_id = h.pod_id
order by page.place
) run;

-- name: last_records
select seq, kind, key, bytes, created_at from records
where run_id = $1 order by seq >> 4 desc, seq desc limit $2;
