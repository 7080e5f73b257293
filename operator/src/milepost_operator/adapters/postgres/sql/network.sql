-- name: task_networks
-- Of a namespace ($2) or of all: Tasks that are there, and those that are gone but have pods.
select t.namespace, t.name, t.network
from tasks t
where t.cluster = $1 and ($2::text is null or t.namespace = $2)
  and (t.present or exists (select from pods p where p.cluster = $1 and p.state <> 'closed'
                            and p.namespace = t.namespace and p.task = t.name));
