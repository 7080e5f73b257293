-- name: dead_letters_conserved
-- 9: a redriven dead letter is exactly one other run (the table's own checks say that it is listed, redriven or discarded).
select (select count(*) from runs r join runs n on n.run_id = r.redriven_by
        where r.cluster = $1 and r.redriven_by is not null
          and (n.origin <> 'redrive' or n.origin_run is distinct from r.run_id))
     + (select count(*) from runs n join runs r on r.run_id = n.origin_run
        where n.cluster = $1 and n.origin = 'redrive' and r.redriven_by is distinct from n.run_id);

-- name: copies_begin_with_their_origin
-- A copied prefix is the origin's, as long as both have their records.
select count(*) from runs n join runs r on r.run_id = n.origin_run
join run_heads hn on hn.run_id = n.run_id join run_heads hr on hr.run_id = r.run_id
where n.cluster = $1 and n.origin in ('retry', 'redrive') and hn.records_pruned_at is null and hr.records_pruned_at is null
  and (select count(*) from records c where c.run_id = n.run_id and c.seq <= n.origin_seq)
   <> (select count(*) from records c where c.run_id = r.run_id);
