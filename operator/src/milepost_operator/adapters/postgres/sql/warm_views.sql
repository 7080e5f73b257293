-- name: warm_views
-- Tasks of a namespace ($2) or of all, with their pods, and how the attempts of their newest $3 runs of the last $4 seconds
-- started: so many probes of an index for a Task that runs, one for a Task that does not.
with open_pods as (
    select namespace, task,
           count(*) filter (where state = 'idle')::int as idle,
           count(*) filter (where state not in ('idle', 'closing') and (run_id is not null or state = 'resting'))::int as busy
    from pods
    where cluster = $1 and state <> 'closed' and ($2::text is null or namespace = $2)
    group by namespace, task
)
select t.namespace, t.name as task, coalesce(p.idle, 0) as idle, coalesce(p.busy, 0) as busy, s.hits, s.misses, s.cold_reason
from tasks t
left join open_pods p on p.namespace = t.namespace and p.task = t.name
cross join lateral (
    select count(*) filter (where a.cold_reason is null)::int as hits,
           count(a.cold_reason)::int as misses,
           (array_agg(a.cold_reason order by a.started_at desc) filter (where a.cold_reason is not null))[1] as cold_reason
    from (
        select r.run_id from runs r
        where r.cluster = $1 and r.namespace = t.namespace and r.task = t.name
          and r.created_at > clock_timestamp() - make_interval(secs => $4)
        order by r.created_at desc, r.run_id desc
        limit $3) r
    join attempts a on a.run_id = r.run_id and a.started_at is not null
) s
where t.cluster = $1 and t.present and ($2::text is null or t.namespace = $2)
order by t.namespace, t.name;

-- name: pods_by_state
select state, count(*)::int as pods from pods where cluster = $1 and state <> 'closed' group by state;
