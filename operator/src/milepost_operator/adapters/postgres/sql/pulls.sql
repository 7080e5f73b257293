-- name: new_pulls
-- Of versions that their Tasks have and that came within the last ten minutes: what was there before needs none.
insert into image_pulls (pull_id, cluster, namespace, task, version)
select substr(replace(gen_random_uuid()::text, '-', ''), 1, 16), t.cluster, t.namespace, t.name, t.version
from tasks t
join task_versions v on v.cluster = t.cluster and v.namespace = t.namespace and v.task = t.name and v.version = t.version
where t.cluster = $1 and t.present and t.updated_at > clock_timestamp() - interval '10 minutes'
  and v.created_at > clock_timestamp() - interval '10 minutes' and v.shape ->> 'image' is not null
  and coalesce(t.prepull, true)
on conflict (cluster, namespace, task, version) do nothing;

-- name: open_pulls
select i.pull_id, i.namespace, i.task, i.version, i.state, v.shape, t.network,
       coalesce(t.present and t.version = i.version, false) as current,
       extract(epoch from clock_timestamp() - i.created_at)::float8 as age_seconds
from image_pulls i
join task_versions v on v.cluster = i.cluster and v.namespace = i.namespace and v.task = i.task and v.version = i.version
left join tasks t on t.cluster = i.cluster and t.namespace = i.namespace and t.name = i.task
where i.cluster = $1 and i.ended_at is null
order by i.created_at, i.pull_id
limit $2;

-- name: note_pull
update image_pulls
set state = $3, nodes = $4, reason = nullif($5, ''), message = nullif(left($6, 1000), ''),
    ended_at = case when $3 in ('pulled', 'failed', 'given-up') then clock_timestamp() end
where cluster = $1 and pull_id = $2 and ended_at is null;
