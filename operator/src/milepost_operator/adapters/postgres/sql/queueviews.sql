-- name: queue_views
-- Queues of a namespace ($2) or of all, or the one named $3. Nothing here reads a whole backlog: depth stops at $4, the
-- oldest is looked for at the head of at most 1,000 keys.
select q.*, d.depth, o.oldest_at, s.running, v.rate_used, v.rate_free_at, t.now
from queues q
cross join lateral (select clock_timestamp() as now) t
cross join lateral (
    select count(*)::int as depth from (
        select from runs r
        where r.cluster = q.cluster and r.namespace = q.namespace and r.queue = q.name and r.state = 'queued'
        limit $4) waiting
) d
cross join lateral (
    select count(*)::int as running from runs r
    where r.cluster = q.cluster and r.namespace = q.namespace and r.queue = q.name
      and r.state in ('admitted', 'running', 'cancelling')
) s
cross join lateral (
    select min(h.ready_at) as oldest_at
    from (select k.key, k.tasks from queue_keys k
          where k.cluster = q.cluster and k.namespace = q.namespace and k.queue = q.name and k.tasks <> '{}'
          limit 1000) k
    cross join lateral unnest(k.tasks) w (task)
    cross join lateral (
        select r.ready_at from runs r
        where r.cluster = q.cluster and r.namespace = q.namespace and r.queue = q.name and r.concurrency_key = k.key
          and r.task = w.task and r.state = 'queued'
        order by r.order_at, r.run_id limit 1
    ) h
) o
left join lateral (
    select case when q.rate is not null then
               greatest(0, coalesce(q.rate->>'burst', q.rate->>'limit')::int - rate_free(q.rate::jsonb, a.state)) end as rate_used,
           case when q.rate is not null then rate_next(q.rate::jsonb, a.state, 1) end as rate_free_at
    from (select case when q.rate is not null then rate_at(q.rate::jsonb, (
        select i.rate from queue_states i
        where i.cluster = q.cluster and i.namespace = q.namespace and i.queue = q.name
        order by i.turn desc limit 1), t.now) end as state) a
) v on true
where q.cluster = $1 and ($2::text is null or q.namespace = $2) and ($3::text is null or q.name = $3) and q.present
order by q.namespace, q.name;
