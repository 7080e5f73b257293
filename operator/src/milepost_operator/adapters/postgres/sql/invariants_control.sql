-- name: paused_queues_hold
-- 3: what was admitted before a queue's pause has started or gone back, and nothing was admitted since.
select count(*) from queues q
join runs r on r.cluster = q.cluster and r.namespace = q.namespace and r.queue = q.name
    and r.state in ('admitted', 'running', 'cancelling')
join attempts a on a.run_id = r.run_id and a.attempt = r.attempt and a.state <> 'ended'
where q.cluster = $1 and q.held_since is not null and a.state = 'reserved';

-- name: breakers_hold
-- 3: no more attempts of a half-open phase are at work than its breaker has probes.
select count(*) from (
    select from queues q
    join runs r on r.cluster = q.cluster and r.namespace = q.namespace and r.queue = q.name
        and r.state in ('admitted', 'running', 'cancelling')
    join attempts a on a.run_id = r.run_id and a.attempt = r.attempt and a.state <> 'ended'
        and a.reserved_at >= q.breaker_since
    where q.cluster = $1 and q.breaker is not null and q.breaker_phase = 'halfOpen'
    group by q.namespace, q.name, q.breaker->>'probes'
    having count(*) > (q.breaker->>'probes')::int) too_many;
