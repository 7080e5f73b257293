-- name: pod_row
select pod_id, namespace, state, pod_uid, run_id, attempt from pods where cluster = $1 and pod_id = $2;

-- name: bind_pod
-- One without a run whose sidecar can't ask for one is of no use.
update pods
set pod_uid = $3, pod_name = $4, bound_at = coalesce(bound_at, clock_timestamp()), reusable = $5,
    state = case when state not in ('wanted', 'creating', 'created') then state
                 when run_id is not null or $5 then 'bound' else 'closing' end,
    closing_at = case when state in ('creating', 'created') and run_id is null and not $5 then clock_timestamp() else closing_at end
where cluster = $1 and pod_id = $2 and state not in ('closing', 'closed') and (pod_uid is null or pod_uid = $3)
returning namespace;

-- name: pods_to_start
select pod_id, namespace, state, pod_uid, run_id, attempt, runs = 0 as fresh from pods where cluster = $1 and pod_id = any($2);

-- name: start_facts
-- Of locked runs. Heads in the order of the runs, as records lock them.
select r.run_id, r.name, r.namespace, r.task, r.version, r.attempt, r.tags, r.input, r.retry, r.timeouts, r.created_at,
       r.attempts_counted, v.shape, a.cause, a.token, a.pod_id, a.state as attempt_state, h.last_seq, h.last_key, h.records, r.origin, r.key_run,
       coalesce(t.on_change, 'fail') as on_change, coalesce(r.accepted_version = r.version, false) as accepted,
       t.record_limits
from runs r
join attempts a on a.run_id = r.run_id and a.attempt = r.attempt
join task_versions v on v.cluster = r.cluster and v.namespace = r.namespace and v.task = r.task and v.version = r.version
join run_heads h on h.run_id = r.run_id
left join tasks t on t.cluster = r.cluster and t.namespace = r.namespace and t.name = r.task
where r.run_id = any($1)
order by r.run_id
for no key update of h;

-- name: begin_attempts
-- First attempts that their pods ($1, bound to $2) begin for the first time, and all that they need to know, in one
-- statement. Whoever is not among them is to be looked at closer. Runs before heads, each in the order of their ids; a
-- run that somebody has locked is left out. The attempt's row, as it is once its run is locked, says whose it is: what was
-- read of the others before that lock changes together with it, or never.
with asking as materialized (
    select p.pod_id, p.run_id, p.attempt, p.state = 'offered' as offered, p.cold_reason
    from unnest($1::text[], $2::text[]) as s (pod_id, pod_uid)
    join pods p on p.pod_id = s.pod_id and p.pod_uid = s.pod_uid
    where p.cluster = $3 and p.state in ('bound', 'offered') and p.attempt = 1
), ours as materialized (
    select r.run_id, r.timeouts from runs r
    where r.run_id = any(array(select run_id from asking)) and r.attempt = 1 and r.state = 'admitted'
    order by r.run_id
    for no key update skip locked
), heads as materialized (
    select h.run_id, h.last_seq, h.last_key, h.records from run_heads h
    where h.run_id = any(array(select run_id from ours))
    order by h.run_id
    for no key update
), begun as (
    update attempts a
    set state = 'running', started_at = clock_timestamp(), resumed_after = h.last_seq,
        deadline_at = clock_timestamp() + make_interval(secs => coalesce((o.timeouts ->> 'attempt_seconds')::float8, $7)),
        cold_reason = case when not s.offered then coalesce(s.cold_reason, 'first') end
    from asking s join ours o on o.run_id = s.run_id join heads h on h.run_id = s.run_id
    where a.run_id = s.run_id and a.attempt = s.attempt and a.state = 'reserved' and a.pod_id = s.pod_id
    returning a.run_id, a.attempt, a.token, a.cause, a.pod_id, a.cold_reason, h.last_seq, h.last_key, h.records
), known as materialized (
    select b.*, r.name, r.namespace, r.task, r.version, r.tags, r.input, r.retry, r.timeouts, r.created_at, r.attempts_counted,
           r.origin, r.key_run, v.shape, coalesce(t.on_change, 'fail') as on_change,
           coalesce(r.accepted_version = r.version, false) as accepted, t.record_limits
    from begun b
    join runs r on r.run_id = b.run_id
    join task_versions v on v.cluster = r.cluster and v.namespace = r.namespace and v.task = r.task and v.version = r.version
    left join tasks t on t.cluster = r.cluster and t.namespace = r.namespace and t.name = r.task
), leased as (
    update run_heads h
    set beat_at = clock_timestamp(), lease_until = clock_timestamp() + $4,
        max_records = coalesce((k.record_limits ->> 'max_count')::int, $5),
        max_records_bytes = coalesce((k.record_limits ->> 'max_bytes')::bigint, $6)
    from known k where h.run_id = k.run_id
), taken as (
    update pods p set state = 'bound' from begun b
    where p.pod_id = b.pod_id and p.state = 'offered' and p.run_id = b.run_id and p.attempt = b.attempt
), running as (
    update runs r
    set state = case when r.state = 'admitted' then 'running' else r.state end,
        started_at = coalesce(r.started_at, clock_timestamp()),
        run_deadline_at = coalesce(r.run_deadline_at,
            clock_timestamp() + make_interval(secs => coalesce((k.timeouts ->> 'run_seconds')::float8, $8))),
        reason = null, message = null, event_count = r.event_count + 1, rev = r.rev + 1
    from known k where r.run_id = k.run_id
    returning r.run_id, r.event_count
), told as (
    insert into run_events (run_id, seq, reason, message)
    select r.run_id, r.event_count, case when k.last_seq > 0 then 'AttemptResumed' else 'AttemptStarted' end,
           left(case when k.last_seq > 0 then format('attempt %s resumed after checkpoint %s (%s)', k.attempt, k.records, k.last_key)
                     else format('attempt %s started', k.attempt) end, 900)
    from running r join known k on k.run_id = r.run_id
)
select * from known;

-- name: start_attempts
-- The lease begins, also anew for a sidecar that asks again; what is told is told once.
with starting as (
    select * from unnest($1::uuid[], $2::int[], $3::float8[], $4::float8[], $6::int[], $7::bigint[], $8::text[])
        as s (run_id, attempt, attempt_seconds, run_seconds, max_records, max_records_bytes, pod_id)
), leased as (
    update run_heads h
    set beat_at = clock_timestamp(), lease_until = clock_timestamp() + $5, max_records = s.max_records,
        max_records_bytes = s.max_records_bytes
    from starting s where h.run_id = s.run_id
    returning h.run_id, h.last_seq, h.last_key, h.records
), taken as (
    -- what was offered to a warm pod is its own from here on
    update pods p set state = 'bound' from starting s
    where p.pod_id = s.pod_id and p.state = 'offered' and p.run_id = s.run_id and p.attempt = s.attempt
), begun as (
    update attempts a
    set state = 'running', started_at = clock_timestamp(), resumed_after = l.last_seq,
        deadline_at = clock_timestamp() + make_interval(secs => s.attempt_seconds),
        cold_reason = case when p.state <> 'offered' then coalesce(p.cold_reason, 'first') end
    from starting s join leased l on l.run_id = s.run_id join pods p on p.pod_id = s.pod_id
    where a.run_id = s.run_id and a.attempt = s.attempt and a.state = 'reserved'
    returning a.run_id, a.attempt, s.run_seconds, l.last_seq, l.last_key, l.records, a.cold_reason
), running as (
    update runs r
    set state = case when r.state = 'admitted' then 'running' else r.state end,
        started_at = coalesce(r.started_at, clock_timestamp()),
        run_deadline_at = coalesce(r.run_deadline_at, clock_timestamp() + make_interval(secs => b.run_seconds)),
        reason = null, message = null, event_count = r.event_count + 1, rev = r.rev + 1
    from begun b where r.run_id = b.run_id
    returning r.run_id, r.event_count
), told as (
    insert into run_events (run_id, seq, reason, message)
    select r.run_id, r.event_count, case when b.last_seq > 0 then 'AttemptResumed' else 'AttemptStarted' end,
           left(case when b.last_seq > 0 then format('attempt %s resumed after checkpoint %s (%s)', b.attempt, b.records, b.last_key)
                     else format('attempt %s started', b.attempt) end, 900)
    from running r join begun b on b.run_id = r.run_id
)
select cold_reason from begun;

-- name: explain_fence
select a.pod_id, a.state, a.settled, h.token is not distinct from $3 as current
from attempts a join run_heads h on h.run_id = a.run_id
where a.run_id = $1 and a.attempt = $2;

-- name: records_page
-- At most $4 records a page, and of values $5 bytes and what the last one has above that; those in object storage are not
-- read here. $3: of a checkpoint only the newest version. The frame of the sum only grows: one that leaves out the current
-- row is summed anew for each, which for a thousand records takes 50 ms.
select seq, kind, key, value, types, fingerprint, attempt, failed, depth, base, delta, bytes, object from (
    select r.*, coalesce(sum(case when object is null then bytes end)
                         over (order by seq rows between unbounded preceding and 1 preceding), 0) as before
    from (
        select * from records r
        where run_id = $1 and seq >> 4 >= $2::bigint >> 4 and seq > $2
          and (not $3 or kind = 'step' or seq = (
              select n.seq from records n where n.run_id = $1 and n.key = r.key and n.kind = 'checkpoint'
              order by n.seq desc limit 1))
        order by seq >> 4, seq limit $4
    ) r
) page
where before < $5
order by seq;

-- name: newest_checkpoint
select seq, kind, key, value, types, fingerprint, attempt, failed, depth, base, delta, bytes, object from records
where run_id = $1 and key = $2 and kind = 'checkpoint' order by seq desc limit 1;

-- name: step_record
select seq, kind, key, value, types, fingerprint, attempt, failed, depth, base, delta, bytes, object from records
where run_id = $1 and key = $2 and kind = 'step';

-- name: record_chain
-- What a record's value is made of: the full value, then the deltas on it in their order.
with recursive chain as (
    select seq, base, value, delta, bytes from records
    where run_id = $1 and seq >> 4 = $2::bigint >> 4 and seq = $2
    union all
    select r.seq, r.base, r.value, r.delta, r.bytes from chain c
    join records r on r.run_id = $1 and r.seq >> 4 = c.base >> 4 and r.seq = c.base
)
select value, delta, bytes from chain order by seq;

-- name: append
-- Many sidecars' records at once. Heads are locked in the order of their run, so that two batches can't deadlock;
-- the fence is checked on the locked rows. A retransmission, or a step that is recorded, is left out; so is a delta on
-- what can't be put together, and what is above the limits of its run.
with incoming as (
    select * from unnest($1::uuid[], $2::int[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::json[],
                         $9::json[], $10::text[], $11::int[], $12::int[], $13::bool[], $14::json[], $15::bigint[], $16::int[])
        as i (run_id, attempt, token, pod_id, write_id, kind, key, value, types, fingerprint, bytes, ord, failed, delta,
              base, kept)
), fences as (
    select distinct run_id, attempt, token, pod_id from incoming
), locked as materialized (
    select h.run_id, h.attempt, h.token, h.pod_id, h.last_seq, h.max_records - h.records as room,
           h.max_records_bytes - h.records_bytes as room_bytes
    from run_heads h
    join fences f on f.run_id = h.run_id and f.attempt = h.attempt and f.token = h.token and f.pod_id = h.pod_id
    order by h.run_id
    for no key update of h
), numbered as (
    select i.*, l.last_seq + row_number() over w as seq, row_number() over w as nth, sum(i.kept) over w as upto,
           coalesce(b.depth + 1, 0) as depth, l.room, l.room_bytes
    from incoming i
    join locked l on l.run_id = i.run_id and l.attempt = i.attempt and l.token = i.token and l.pod_id = i.pod_id
    left join records b on b.run_id = i.run_id and b.seq >> 4 = i.base >> 4 and b.seq = i.base
    where not exists (select 1 from records r
                      where r.run_id = i.run_id and r.write_id = i.write_id and r.kind = 'checkpoint' and i.kind = 'checkpoint')
      and not exists (select 1 from records r where r.run_id = i.run_id and r.key = i.key and r.kind = 'step' and i.kind = 'step')
      and (i.base is null or (b.depth < 127 and b.object is null))
    window w as (partition by i.run_id order by i.ord)
), written as (
    insert into records (run_id, seq, kind, key, attempt, write_id, value, types, fingerprint, bytes, failed, depth, base, delta)
    select run_id, seq, kind, key, attempt, write_id, value, types, fingerprint, bytes, failed, depth, base, delta
    from numbered where nth <= room and upto <= room_bytes
    on conflict do nothing
    returning run_id, seq, key, write_id
), advanced as (
    update run_heads h
    set last_seq = w.last_seq, last_key = w.last_key, records = h.records + w.n, records_bytes = h.records_bytes + w.kept
    from (select d.run_id, max(d.seq) as last_seq, (array_agg(d.key order by d.seq desc))[1] as last_key,
                 count(*)::int as n, sum(n.kept) as kept
          from written d join numbered n on n.run_id = d.run_id and n.seq = d.seq group by d.run_id) w
    where h.run_id = w.run_id
)
select i.ord, l.run_id is not null as held, w.seq
from incoming i
left join locked l on l.run_id = i.run_id and l.attempt = i.attempt and l.token = i.token and l.pod_id = i.pod_id
left join written w on w.run_id = i.run_id and w.write_id = i.write_id and w.key = i.key;

-- name: append_one
-- A lone record at half the price. The head is the fence and gives the number; nothing comes back when the fence is lost,
-- the record is there or can't be taken, and a race for the same record ends in a unique violation: `append` tells which
-- it was.
with head as (
    update run_heads h
    set last_seq = h.last_seq + 1, last_key = $7, records = h.records + 1, records_bytes = h.records_bytes + $15
    where h.run_id = $1 and h.attempt = $2 and h.token = $3 and h.pod_id = $4
      and h.records < h.max_records and h.records_bytes + $15 <= h.max_records_bytes
      and not exists (select 1 from records r
                      where r.run_id = $1 and r.write_id = $5 and r.kind = 'checkpoint' and $6 = 'checkpoint')
      and not exists (select 1 from records r where r.run_id = $1 and r.key = $7 and r.kind = 'step' and $6 = 'step')
      and ($14::bigint is null or exists (
          select 1 from records b where b.run_id = $1 and b.seq >> 4 = $14 >> 4 and b.seq = $14 and b.depth < 127 and b.object is null))
    returning h.last_seq
)
insert into records (run_id, seq, kind, key, attempt, write_id, value, types, fingerprint, bytes, failed, depth, base, delta)
select $1, last_seq, $6, $7, $2, $5, $8, $9, $10, $11, $12,
       coalesce((select b.depth + 1 from records b where b.run_id = $1 and b.seq >> 4 = $14 >> 4 and b.seq = $14), 0), $14, $13
from head
returning seq;

-- name: record_by_write
select seq from records where run_id = $1 and kind = 'step' and key = $3 and write_id = $2 and $4 = 'step'
union all
select seq from records where run_id = $1 and kind = 'checkpoint' and write_id = $2 and $4 = 'checkpoint';

-- name: explain_record
-- Why one was left out: the step is there, or its base is not, else it is above a limit of its run.
select exists (select 1 from records where run_id = $1 and kind = 'step' and key = $2 and $3 = 'step') as known,
       $4::bigint is null or exists (
           select 1 from records where run_id = $1 and seq >> 4 = $4 >> 4 and seq = $4 and depth < 127 and object is null) as based,
       h.records >= h.max_records as full, h.max_records, h.max_records_bytes
from run_heads h where h.run_id = $1;

-- name: biggest_key
-- Calls of one step count together.
select regexp_replace(key, '#[0-9]+$', '') as key, count(*)::int as records,
       sum(coalesce(octet_length(coalesce(value, delta)::text), bytes))::bigint as bytes
from records where run_id = $1 group by 1 order by case when $2 then count(*) end desc, bytes desc, 1 limit 1;

-- name: beat
-- Losing a heartbeat in a crash of Postgres only delays a lease's end: it need not wait for the disk.
with relaxed as materialized (
    select set_config('synchronous_commit', 'off', true)
), incoming as (
    select * from unnest($1::uuid[], $2::int[], $3::bigint[], $4::text[], $5::real[], $6::text[], $7::int[])
        as i (run_id, attempt, token, pod_id, progress, progress_message, ord)
), locked as materialized (
    select h.run_id, i.ord, i.progress, i.progress_message
    from run_heads h
    cross join relaxed
    join incoming i on i.run_id = h.run_id and i.attempt = h.attempt and i.token = h.token and i.pod_id = h.pod_id
    order by h.run_id
    for no key update of h
), beaten as (
    update run_heads h
    set beat_at = clock_timestamp(), lease_until = clock_timestamp() + $8,
        progress = coalesce(l.progress, h.progress), progress_message = coalesce(l.progress_message, h.progress_message)
    from locked l where h.run_id = l.run_id
)
select l.ord, r.state, greatest(0, extract(epoch from r.cancel_deadline_at - clock_timestamp()))::int as grace
from locked l join runs r on r.run_id = l.run_id;
