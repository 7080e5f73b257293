-- name: plain_lock
select concurrency from queues where cluster = 'default' and namespace = 'bench' and name = $1 for update;

-- name: plain_count
select count(*)::int from runs where cluster = 'default' and namespace = 'bench' and queue = $1
and state in ('admitted', 'running', 'cancelling');

-- name: plain_bucket
update plain_buckets set tokens = least(1e6, tokens + extract(epoch from clock_timestamp() - at) * 1e6) - $2, at = clock_timestamp()
where queue = $1 and tokens >= $2 returning tokens;

-- name: plain_claim
-- The rows that an admission writes, by a statement that knows of no keys, no fairness, no marks, and one limit.
with picked as (
    select run_id, attempt + 1 as attempt, next_cause, task, nextval('fencing_tokens') as token,
           substr(replace(gen_random_uuid()::text, '-', ''), 1, 16) as pod_id
    from runs where cluster = 'default' and namespace = 'bench' and queue = $1 and concurrency_key = '' and task = 'index'
      and state = 'queued' order by order_at, run_id limit $2 for no key update skip locked
), admitted as (
    update runs r set state = 'admitted', attempt = p.attempt, version = 1, admitted_at = clock_timestamp(),
        event_count = r.event_count + 1, rev = r.rev + 1
    from picked p where r.run_id = p.run_id returning r.run_id, r.event_count
), heads as (
    update run_heads h set attempt = p.attempt, token = p.token, pod_id = p.pod_id from picked p where h.run_id = p.run_id
    returning h.run_id, h.last_seq
), new_pods as (
    insert into pods (pod_id, cluster, namespace, task, version, state, run_id, attempt)
    select pod_id, 'default', 'bench', task, 1, 'wanted', run_id, attempt from picked
), new_attempts as (
    insert into attempts (run_id, attempt, token, cause, state, pod_id, resumed_after)
    select p.run_id, p.attempt, p.token, p.next_cause, 'reserved', p.pod_id, h.last_seq from picked p join heads h using (run_id)
), events as (
    insert into run_events (run_id, seq, reason, message)
    select a.run_id, a.event_count, 'RunAdmitted', 'admitted' from admitted a
)
select count(*)::int from picked;
