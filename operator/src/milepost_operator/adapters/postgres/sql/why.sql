-- name: why_run
-- A run, and what is known of its queue, Task and pod without counting anything.
select clock_timestamp() as now, r.cluster, r.namespace, r.run_id, r.state, r.task, r.queue, r.reason, r.message, r.ready_at, r.order_at,
       r.attempt, r.attempts_counted, r.retry, r.next_cause, r.bumped_at, r.concurrency_key, r.rate_cost, r.held_at,
       r.expires_at, r.deadline_at, r.cancel_deadline_at,
       q.name as queue_found, coalesce(q.override_concurrency, q.concurrency) as queue_limit, q.key_concurrency, q.rate,
       q.key_rate, q.paused, q.paused_by, q.paused_at, q.pause_reason, q.held_since, q.breaker, q.breaker_phase,
       q.breaker_until, q.breaker_passed, q.probe_room, t.concurrency as task_limit, t.semaphores,
       p.state as pod_state,
       case when p.state = 'offered' then p.offered_at else coalesce(p.bound_at, p.launched_at, p.created_at) end as pod_since
from runs r
left join queues q on q.cluster = r.cluster and q.namespace = r.namespace and q.name = r.queue and q.present
left join tasks t on t.cluster = r.cluster and t.namespace = r.namespace and t.name = r.task and t.present
left join attempts a on a.run_id = r.run_id and a.attempt = r.attempt
left join pods p on p.pod_id = a.pod_id
where r.run_id = $1;

-- name: why_place
-- What a queued run is behind, each count with a bound ($2 and one more), and what is taken of the limits above it.
-- Within its key the runs go by their order; keys take turns, so that runs of other keys are not ahead of it.
select (select count(*)::int from (
            select from runs b
            where b.cluster = r.cluster and b.namespace = r.namespace and b.queue = r.queue and b.state = 'queued'
              and b.bumped_at is not null and (r.bumped_at is null or (b.bumped_at, b.run_id) < (r.bumped_at, r.run_id))
            limit $2 + 1) bumped)
       + case when r.bumped_at is null then (select count(*)::int from (
            select from (select unnest(k.tasks) as task from queue_keys k
                         where k.cluster = r.cluster and k.namespace = r.namespace and k.queue = r.queue
                           and k.key = r.concurrency_key) w
            cross join lateral (
                select from runs b
                where b.cluster = r.cluster and b.namespace = r.namespace and b.queue = r.queue
                  and b.concurrency_key = r.concurrency_key and b.task = w.task and b.state = 'queued'
                  and b.bumped_at is null and (b.order_at, b.run_id) < (r.order_at, r.run_id)
                limit $2 + 1) ahead
            limit $2 + 1) line) else 0 end as ahead,
       (select count(*)::int from runs s
        where s.cluster = r.cluster and s.namespace = r.namespace and s.queue = r.queue
          and s.state in ('admitted', 'running', 'cancelling')) as running,
       case when q.key_concurrency is not null then (
            select count(*)::int from runs s
            where s.cluster = r.cluster and s.namespace = r.namespace and s.queue = r.queue
              and s.concurrency_key = r.concurrency_key and s.state in ('admitted', 'running', 'cancelling')) end as key_running,
       case when t.concurrency is not null then (
            select count(*)::int from runs s
            where s.cluster = r.cluster and s.namespace = r.namespace and s.task = r.task
              and s.state in ('admitted', 'running', 'cancelling')) end as task_running,
       g.concurrency as global_limit,
       case when g.concurrency is not null then (
            select count(*)::int from runs s
            where s.cluster = r.cluster and s.state in ('admitted', 'running', 'cancelling')) end as global_running,
       case when q.rate is not null then (
            select rate_next(q.rate::jsonb, rate_at(q.rate::jsonb, (
                select i.rate from queue_states i
                where i.cluster = r.cluster and i.namespace = r.namespace and i.queue = r.queue
                order by i.turn desc limit 1), clock_timestamp()), r.rate_cost)) end as rate_at,
       case when q.key_rate is not null then (
            select rate_next(q.key_rate::jsonb, rate_at(q.key_rate::jsonb, (
                select k.rate from queue_keys k
                where k.cluster = r.cluster and k.namespace = r.namespace and k.queue = r.queue
                  and k.key = r.concurrency_key), clock_timestamp()), r.rate_cost)) end as key_rate_at,
       (select count(*)::int from runs s
        join attempts a on a.run_id = s.run_id and a.attempt = s.attempt and a.state <> 'ended'
        where q.breaker_phase = 'halfOpen' and s.cluster = r.cluster and s.namespace = r.namespace and s.queue = r.queue
          and s.state in ('admitted', 'running', 'cancelling') and a.reserved_at >= q.breaker_since) as probing
from runs r
join queues q on q.cluster = r.cluster and q.namespace = r.namespace and q.name = r.queue
left join tasks t on t.cluster = r.cluster and t.namespace = r.namespace and t.name = r.task and t.present
left join limits g on g.cluster = r.cluster and g.kind = 'global'
where r.run_id = $1;

-- name: why_semaphores
-- Limits and rooms of the semaphores $3 of a namespace: the smallest limit that a Task gives one is in force.
select n.name, semaphore_room($1, $2, n.name) as room, (
    select min((e->>'limit')::int) from tasks t, json_array_elements(t.semaphores) e
    where t.cluster = $1 and t.namespace = $2 and t.present and t.semaphores is not null and e->>'name' = n.name) as most
from unnest($3::text[]) n (name);

-- name: why_waits
-- What a suspended run sleeps on, the first to come first.
select kind, coalesce(name, key) as name, until from waits
where run_id = $1 and armed and resolved_at is null
order by until nulls last, ordinal
limit 20;
