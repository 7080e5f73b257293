-- name: pods_have_a_purpose
-- 12: an open pod is for a live attempt that is its own, or it waits for work, or was made to do so.
select count(*) from pods p where p.cluster = $1 and p.state in ('wanted', 'creating', 'created', 'bound', 'offered')
    and not (p.ahead and p.run_id is null and p.state in ('creating', 'created', 'bound'))
    and not exists (select 1 from attempts a where a.run_id = p.run_id and a.attempt = p.attempt and a.pod_id = p.pod_id
                    and a.state <> 'ended');

-- name: attempts_have_their_pod
-- 12: a live attempt, its run's head and its pod name each other.
select count(*) from attempts a
join runs r on r.run_id = a.run_id
left join run_heads h on h.run_id = a.run_id and h.attempt = a.attempt
left join pods p on p.pod_id = a.pod_id
where r.cluster = $1 and a.state <> 'ended'
  and (h.pod_id is distinct from a.pod_id or p.run_id is distinct from a.run_id or p.attempt is distinct from a.attempt
       or p.state in ('closing', 'closed'));

-- name: offers_are_taken_up
-- 12: what is offered is begun, or goes back, within seconds.
select count(*) from pods where cluster = $1 and state = 'offered' and offered_at < clock_timestamp() - interval '15 seconds';

-- name: warm_pods_are_bounded
-- 12: no more pods wait than may ($2: of a Task that says nothing, $3: in all), but for a moment after that was changed.
select (select count(*) from (
            select from pods p
            left join tasks t on t.cluster = p.cluster and t.namespace = p.namespace and t.name = p.task
            where p.cluster = $1 and p.state = 'idle'
              and coalesce(t.updated_at, '-infinity') < clock_timestamp() - interval '15 seconds'
            group by p.namespace, p.task, t.warm ->> 'max', t.warm ->> 'min'
            having count(*) > coalesce((t.warm ->> 'max')::int, greatest($2, (t.warm ->> 'min')::int))) of_task)
     + greatest(0, (select count(*) from pods where cluster = $1 and state = 'idle') - $3::int);
