-- name: queues_to_judge
-- With ends that nobody has judged, or whose breaker is not closed: few.
select namespace, queue as name from breaker_outcomes where cluster = $1
union
select namespace, name from queues where cluster = $1 and breaker_phase <> 'closed';

-- name: lock_queue_to_judge
-- One that another replica serves is judged there.
select breaker, breaker_phase, breaker_since, breaker_until, breaker_failures, breaker_passed, probe_room,
       clock_timestamp() as now
from queues where cluster = $1 and namespace = $2 and name = $3
for no key update skip locked;

-- name: take_outcomes
delete from breaker_outcomes where cluster = $1 and namespace = $2 and queue = $3
returning verdict, admitted_at, ended_at;

-- name: count_probes
-- Live attempts that were admitted since the breaker is half open.
select count(*)::int from runs r
join attempts a on a.run_id = r.run_id and a.attempt = r.attempt and a.state <> 'ended' and a.reserved_at >= $4
where r.cluster = $1 and r.namespace = $2 and r.queue = $3 and r.state in ('admitted', 'running', 'cancelling');

-- name: set_breaker
update queues
set breaker_phase = $4, breaker_since = $5, breaker_until = $6, breaker_failures = $7, breaker_passed = $8, probe_room = $9
where cluster = $1 and namespace = $2 and name = $3;

-- name: set_breaker_policy
-- As its Queue's manifest says, unless a newer one has been taken already.
update queues set breaker = $5::json
where cluster = $1 and namespace = $2 and name = $3 and generation = $4 and breaker::text is distinct from $5;
