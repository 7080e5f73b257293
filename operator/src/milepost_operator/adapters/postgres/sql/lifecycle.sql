-- name: copy_run
-- A new run of the same input and options; its queue, policy and version are the Task's of now. Its spans of time begin
-- anew. A key of idempotency stays with the run that took it.
insert into runs (run_id, cluster, namespace, name, task, queue, state, reason, message, held_at, input, input_hash, tags,
                  priority, concurrency_key, rate_cost, singleton_key, ready_at, order_at, expires_at, deadline_at, retry, timeouts, origin,
                  origin_run, origin_seq, key_run)
select $2, s.cluster, s.namespace, $3, s.task, coalesce(t.queue, s.queue),
       case when t.name is null or q.name is null then 'held' else 'queued' end,
       case when t.name is null then 'TaskNotFound' when q.name is null then 'QueueNotFound' end,
       case when t.name is null then format('no Task %s in namespace %s: apply it, or delete the run', s.task, s.namespace)
            when q.name is null then format('no Queue %s in namespace %s: apply it, or change the Task''s queue', t.queue, s.namespace) end,
       case when t.name is null or q.name is null then n.at end,
       s.input, s.input_hash, s.tags, s.priority, s.concurrency_key, s.rate_cost, s.singleton_key, n.at, order_at(n.at, s.priority),
       n.at + (s.expires_at - coalesce(s.thawed, '0') - s.created_at), n.at + (s.deadline_at - s.created_at),
       t.retry, t.timeouts, $4, s.run_id, h.last_seq, coalesce(s.key_run, s.run_id)
from runs s
join run_heads h on h.run_id = s.run_id
cross join (select clock_timestamp() as at) n
left join tasks t on t.cluster = s.cluster and t.namespace = s.namespace and t.name = s.task and t.present
left join queues q on q.cluster = s.cluster and q.namespace = s.namespace and q.name = t.queue and q.present
where s.run_id = $1
on conflict do nothing
returning run_id, name, namespace, task, state, origin_run, origin_seq;

-- name: go_on_after_change
-- Back to its old place; the time it was held is not its own. $2: whether its version's changes are accepted; it stays on
-- that, while code that was put right may be a newer version.
update runs r
set state = 'queued', reason = null, message = null, next_cause = 'resume',
    accepted_version = case when $2 then r.version end,
    version = case when $2 or not exists (select from tasks t where t.cluster = r.cluster and t.namespace = r.namespace
                                          and t.name = r.task and t.versioning = 'latest') then r.version end,
    run_deadline_at = r.run_deadline_at + (clock_timestamp() - r.held_at), rev = r.rev + 1
where r.run_id = $1;

-- name: copy_head
insert into run_heads (run_id, last_seq, last_key, records, records_bytes)
select $2, last_seq, last_key, records, records_bytes from run_heads where run_id = $1
returning records;

-- name: copy_records
-- Under the seqs they have; attempt 0: written before the first attempt of this run.
insert into records (run_id, seq, kind, key, attempt, write_id, value, types, fingerprint, bytes, failed, created_at, depth,
                     base, delta, object)
select $2, seq, kind, key, 0, write_id, value, types, fingerprint, bytes, failed, created_at, depth, base, delta, object
from records where run_id = $1;

-- name: run_to_copy
-- Locked: of two that want to make another run of it, one comes after the other.
select run_id, namespace, name, task, singleton_key, state, dead_lettered, redriven_by, discarded_at
from runs
where cluster = $1 and run_id = $2
for no key update;

-- name: records_pruned
-- A statement of its own, after the lock: pruning holds that and changes the head alone.
select records_pruned_at is not null from run_heads where run_id = $1;

-- name: live_copy
-- A statement of its own, after the lock: it sees what another one committed while this one waited.
select name from runs where origin_run = $1 and origin in ('retry', 'redrive') and finished_at is null limit 1;

-- name: singleton_owner
select run_id, name from runs
where cluster = $1 and namespace = $2 and task = $3 and singleton_key = $4 and finished_at is null;

-- name: named_runs
-- By name or id, in the order they were named.
select w.named, r.run_id
from unnest($3::text[]) with ordinality w (named, place)
join runs r on r.cluster = $1 and r.namespace = $2
    and (r.name = w.named or r.run_id = case when w.named ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then w.named::uuid end)
order by w.place;

-- name: leave_dead_letters
-- Its Event goes out where a Run object shows it; no object is made for its sake.
update runs
set dead_lettered = false, redriven_by = $2, discarded_at = case when $2::uuid is null then clock_timestamp() end,
    discarded_by = case when $2::uuid is null then $3 end, rev = rev + (cr_uid is not null)::int
where run_id = $1 and dead_lettered;

-- name: cancellable
-- Locked in the order of their ids, so that two such batches can't deadlock.
select run_id from runs
where cluster = $1 and namespace = $2 and run_id = any($3)
  and state in ('delayed', 'queued', 'admitted', 'running', 'suspended', 'backoff', 'held')
order by run_id
for no key update;
