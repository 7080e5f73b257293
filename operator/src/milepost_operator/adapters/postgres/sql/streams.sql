-- name: append_chunks
-- Many sidecars' chunks at once, fenced as records are: on the heads, locked in the order of their run. A chunk that was
-- sent before keeps its position; one above the bound ($9, bytes of a run in all) is left out, with those after it.
with incoming as (
    select * from unnest($1::uuid[], $2::int[], $3::bigint[], $4::text[], $5::text[], $6::json[], $7::int[], $8::int[])
        as i (run_id, attempt, token, pod_id, write_id, value, bytes, ord)
), fences as (
    select distinct run_id, attempt, token, pod_id from incoming
), locked as materialized (
    select h.run_id, h.attempt, h.token, h.pod_id, h.stream_position, h.stream_bytes
    from run_heads h
    join fences f on f.run_id = h.run_id and f.attempt = h.attempt and f.token = h.token and f.pod_id = h.pod_id
    order by h.run_id
    for no key update of h
), numbered as (
    select i.*, l.stream_position + row_number() over w as position, l.stream_bytes + sum(i.bytes) over w as total
    from incoming i
    join locked l on l.run_id = i.run_id and l.attempt = i.attempt and l.token = i.token and l.pod_id = i.pod_id
    where not exists (select from stream_chunks c where c.run_id = i.run_id and c.write_id = i.write_id)
    window w as (partition by i.run_id order by i.ord)
), written as (
    insert into stream_chunks (run_id, position, attempt, write_id, value, bytes)
    select run_id, position, attempt, write_id, value, bytes from numbered where total <= $9
    on conflict do nothing
    returning run_id, position, write_id, bytes
), advanced as (
    update run_heads h set stream_position = w.position, stream_bytes = h.stream_bytes + w.bytes
    from (select run_id, max(position) as position, sum(bytes) as bytes from written group by run_id) w
    where h.run_id = w.run_id
)
select i.ord, l.run_id is not null as held, w.position
from incoming i
left join locked l on l.run_id = i.run_id and l.attempt = i.attempt and l.token = i.token and l.pod_id = i.pod_id
left join written w on w.run_id = i.run_id and w.write_id = i.write_id;

-- name: chunk_by_write
-- In a statement of its own, after the head's lock: it sees what another one committed while this one waited.
select position from stream_chunks where run_id = $1 and write_id = $2;

-- name: chunks_page
-- At least one chunk, and no more than about 1 MiB of them.
select position, attempt, value, created_at from (
    select c.*, sum(bytes) over (order by position) - bytes as before
    from (select * from stream_chunks where run_id = $1 and position > $2 order by position limit $3) c
) page
where before < 1048576
order by position;

-- name: told
-- Of runs and positions: those with a chunk after it, and those that tell no more.
select a.ord from unnest($1::uuid[], $2::bigint[]) with ordinality as a (run_id, after, ord)
left join run_heads h on h.run_id = a.run_id
left join runs r on r.run_id = a.run_id
where h.stream_position > a.after or r.run_id is null or r.finished_at is not null;
