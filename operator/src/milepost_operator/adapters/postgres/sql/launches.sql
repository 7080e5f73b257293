-- name: take_epoch
insert into leadership (cluster, epoch, holder) values ($1, 1, $2)
on conflict (cluster) do update set epoch = leadership.epoch + 1, holder = excluded.holder, since = clock_timestamp()
returning epoch;

-- name: check_epoch
-- Shared with other launches of this epoch; a new epoch waits for them, and none of an older one begins after it.
select epoch from leadership where cluster = $1 for share;

-- name: take_wanted
-- Also those that an earlier epoch had begun: their Job, if it is there, is adopted by its name.
with taken as (
    select pod_id from pods
    where cluster = $1 and (state = 'wanted' or (state = 'creating' and (epoch <> $2 or launched_at < clock_timestamp() - interval '10 seconds')))
    order by created_at
    limit $3
    for update skip locked
)
update pods p set state = 'creating', epoch = $2, launched_at = clock_timestamp()
from taken t
join pods q on q.pod_id = t.pod_id
join task_versions v on v.cluster = q.cluster and v.namespace = q.namespace and v.task = q.task and v.version = q.version
where p.pod_id = t.pod_id
returning p.pod_id, p.namespace, p.task, p.version, p.template_hash, v.shape, v.image_digest;

-- name: launched
update pods set state = case when state = 'creating' then 'created' else state end, job_uid = $4
where cluster = $1 and pod_id = $2 and state in ('creating', 'created', 'bound') and (epoch = $3 or state <> 'creating')
returning pod_id;

-- name: open_pods
select p.pod_id, p.namespace, p.state, p.job_uid, p.pod_uid, p.run_id, p.attempt,
       extract(epoch from clock_timestamp() - coalesce(p.closing_at, p.launched_at, p.created_at))::float8 as age_seconds,
       case when a.settled then 10 else 0 end as grace_seconds,
       case when p.state = 'created' and s.seen_at > clock_timestamp() - interval '3 seconds'
            then extract(epoch from clock_timestamp() - greatest(p.launched_at, s.up_since)) else 0 end::float8 as unheard_seconds
from pods p
left join service_pulse s on s.cluster = p.cluster
left join attempts a on a.run_id = p.run_id and a.attempt = p.attempt
where p.cluster = $1 and p.state <> 'closed'
order by (p.state = 'closing') desc, p.created_at;

-- name: note_run
-- Its object is told later, if the reason holds.
update runs r
set reason = $3, message = left($4, 1000), wait_code = $3,
    wait_since = case when r.wait_code = $3 then r.wait_since else clock_timestamp() end
from pods p
where p.cluster = $1 and p.pod_id = $2 and p.state not in ('closing', 'closed')
  and r.run_id = p.run_id and r.attempt = p.attempt and r.state = 'admitted'
  and (r.reason is distinct from $3 or r.message is distinct from left($4, 1000));

-- name: set_digest
update task_versions v set image_digest = $3
from pods p
where p.cluster = $1 and p.pod_id = $2 and v.cluster = p.cluster and v.namespace = p.namespace and v.task = p.task
  and v.version = p.version and v.image_digest is null;

-- name: close_pod
update pods set state = 'closed', closed_at = clock_timestamp() where cluster = $1 and pod_id = $2 and state <> 'closed';
