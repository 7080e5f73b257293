-- name: one_run_per_key
-- 5: since a key was taken, one run was triggered by it; with the scope `active`, one that has not ended.
select count(*) from (
    select 1 from idempotency_keys k
    join runs r on r.cluster = k.cluster and r.namespace = k.namespace and r.task = k.task and r.idempotency_key = k.key
        and r.created_at >= k.since and r.origin in ('api', 'kubectl')
        and (k.scope = 'window' or r.finished_at is null)
    where k.cluster = $1 and k.expires_at > clock_timestamp()
    group by k.namespace, k.task, k.key having count(*) > 1) twice;
