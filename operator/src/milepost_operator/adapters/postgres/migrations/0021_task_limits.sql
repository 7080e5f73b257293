-- Who applies a Task holds its lock from before its limits change until they are in force. A claim shares that lock, and
-- reads the Task after it; while somebody changes the Task, its runs are left to the next claim.

-- Admits up to `p_limit` runs of a queue within all limits, in one transaction; nothing while another claim has the queue.
-- Each admitted run gets its attempt, its fencing token and the row of its pod, before any Job is made.
-- `again_in`: seconds until another claim may find more, where that is known.
-- Every statement after a lock sees all that was committed before the lock was taken: that is why they are many.
create or replace function admit(p_cluster text, p_namespace text, p_queue text, p_limit integer,
                      out admitted integer, out again_in double precision)
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off as $$
#variable_conflict use_column
declare
    sweep_every constant interval := '80 milliseconds';
    few constant integer := 8;
    nothing constant uuid := '00000000-0000-0000-0000-000000000000';
    q record; s queue_states; r record; t record; u record; now_ timestamptz := clock_timestamp();
    v_sweep boolean; changed boolean := false; v_still boolean; v_upto bigint; v_free integer; v_n integer; ki integer; ti integer; mi integer; cost integer; fits boolean;
    returned text[]; names text[]; more claim_key[]; ks claim_key[] := '{}'; v_live integer := 0;
    v_tokens integer; v_taken integer := 0; virtual_now bigint;
    t_names text[] := '{}'; t_versions bigint[] := '{}'; t_rooms integer[] := '{}'; t_units jsonb[] := '{}';
    m_names text[] := '{}'; m_rooms integer[] := '{}'; v_blocked text[] := '{}';
    a_run uuid[] := '{}'; a_attempt integer[] := '{}'; a_cause text[] := '{}'; a_task text[] := '{}';
    a_version bigint[] := '{}'; a_units jsonb[] := '{}'; orphans uuid[] := '{}';
begin
    admitted := 0;
    select coalesce(i.override_concurrency, i.concurrency) as concurrency, i.key_concurrency, i.rate::jsonb as rate,
           i.key_rate::jsonb as key_rate, concat_ws('|', coalesce(i.key_concurrency, -1), i.key_rate) as limits
    into q from queues i
    where i.cluster = p_cluster and i.namespace = p_namespace and i.name = p_queue
      and i.present and not i.paused and not i.spec_paused
    for no key update skip locked;
    if not found then
        return;
    end if;
    select * into s from queue_states i
    where i.cluster = p_cluster and i.namespace = p_namespace and i.queue = p_queue order by i.turn desc limit 1;
    if not found then
        insert into queue_states (cluster, namespace, queue) values (p_cluster, p_namespace, p_queue) returning * into s;
    end if;
    if s.counted_at not between now_ - interval '1 minute' and now_ then
        v_n := recount(p_cluster, p_namespace, p_queue);
        if v_n <> s.running and s.counted_at > '-infinity' then
            raise warning 'queue %/%: % slots were counted, % are taken', p_namespace, p_queue, s.running, v_n;
        end if;
        s.running := v_n;
        s.counted_at := now_;
        changed := true;
    end if;
    if s.limits is distinct from q.limits then
        -- Each key is judged anew; while somebody holds one, the next claim does it again.
        with free_ones as (
            select i.key from queue_keys i where i.cluster = p_cluster and i.namespace = p_namespace and i.queue = p_queue
            for no key update skip locked
        ), judged as (
            update queue_keys k set open = q.key_concurrency is null or k.running < q.key_concurrency, opens_at = null, emptied = false
            from free_ones f
            where k.cluster = p_cluster and k.namespace = p_namespace and k.queue = p_queue and k.key = f.key
            returning 1
        )
        select count(*) into v_n from judged;
        if v_n = (select count(*) from queue_keys i where i.cluster = p_cluster and i.namespace = p_namespace and i.queue = p_queue) then
            s.limits := q.limits;
            changed := true;
        end if;
    end if;

    -- Slots given back: those since the mark; all of them now and then, since ids commit out of order.
    v_sweep := s.swept_at not between now_ - sweep_every and now_;
    v_upto := case when v_sweep then 0 else s.returns_upto end;
    if v_sweep then
        s.swept_at := now_;
    end if;
    select array_agg(distinct i.key) into returned from slot_returns i
    where i.cluster = p_cluster and i.namespace = p_namespace and i.queue = p_queue and i.return_id > v_upto;
    v_free := case when returned is null then least(p_limit, q.concurrency - s.running) else p_limit end;
    if v_free <= 0 then
        if changed then
            update queue_states i set running = s.running, limits = s.limits, counted_at = s.counted_at
            where i.cluster = p_cluster and i.namespace = p_namespace and i.queue = p_queue and i.turn = s.turn;
        end if;
        return;
    end if;
    if v_free > 0 then
        select i.concurrency into v_n from limits i
        where i.cluster = p_cluster and i.namespace = '' and i.kind = 'global' and i.name = '' and i.concurrency is not null
        for no key update;
        if found then
            v_free := least(v_free, v_n - (select count(*)::integer from runs i
                                     where i.cluster = p_cluster and i.state in ('admitted', 'running', 'cancelling')));
        end if;
    end if;
    if q.rate is not null then
        s.rate := rate_at(q.rate, s.rate, clock_timestamp());
        v_tokens := rate_free(q.rate, s.rate);
        if v_tokens <= 0 then
            again_in := extract(epoch from rate_next(q.rate, s.rate, 1) - now_);
        end if;
    end if;

    -- Keys with slots back or whose time has come, keys of bumped and of untaxed runs, then those that are next in turn.
    select array_agg(distinct w.key) into names from (
        select unnest(returned) as key
        union all
        (select i.key from queue_keys i where i.cluster = p_cluster and i.namespace = p_namespace and i.queue = p_queue
         and i.opens_at <= now_ order by i.opens_at limit p_limit)
        union all
        (select i.concurrency_key from runs i where i.cluster = p_cluster and i.namespace = p_namespace and i.queue = p_queue
         and i.state = 'queued' and i.bumped_at is not null and v_free > 0 order by i.bumped_at, i.run_id limit p_limit)
        union all
        (select i.concurrency_key from runs i where i.cluster = p_cluster and i.namespace = p_namespace and i.queue = p_queue
         and i.state = 'queued' and i.next_cause in ('resume', 'infra') and v_free > 0
         and (q.rate is not null or q.key_rate is not null) order by i.order_at, i.run_id limit p_limit)
        union all
        (select i.key from queue_keys i where i.cluster = p_cluster and i.namespace = p_namespace and i.queue = p_queue
         and i.open and i.tasks <> '{}' and i.tag >= case when v_sweep then -1 else s.virtual - 1 end
         and v_free > 0 and (v_tokens is null or v_tokens > 0) order by i.tag, i.key limit greatest(p_limit, few + 2))
    ) w;

    virtual_now := s.virtual;
    for turn_ in 1..8 loop
        if names is not null then
            -- The newest version of each key; one that somebody holds is left to the next claim.
            select array_agg(row(k.key, k.tid, k.tasks, greatest(k.tag, s.virtual), 0, k.running,
                                 case when k.opens_at > now_ then k.opens_at end, k.emptied,
                                 k.rate, null, 0, k.mark_at, k.mark_id, k.mark_at, k.mark_id, k.swept_at,
                                 k.swept_at not between now_ - sweep_every and now_, true, false, false, 0, 0, 0)::claim_key)
            into more
            from unnest(names) w(key) cross join lateral (
                select i.ctid as tid, i.* from queue_keys i
                where i.cluster = p_cluster and i.namespace = p_namespace and i.queue = p_queue and i.key = w.key
                order by i.tag desc limit 1 for no key update skip locked) k;
            if turn_ = 1 and returned is not null then
                for r in
                    with gone as (
                        delete from slot_returns i
                        where i.cluster = p_cluster and i.namespace = p_namespace and i.queue = p_queue
                          and i.return_id > v_upto and i.key in (select m.key from unnest(more) m)
                        returning i.key, i.slots, i.anew, i.return_id
                    )
                    select g.key, sum(g.slots)::integer as slots, bool_or(g.anew) as anew, max(g.return_id) as upto,
                           array_position((select array_agg(m.key order by m.ordinality) from unnest(more) with ordinality m), g.key) as at
                    from gone g group by g.key
                loop
                    s.running := s.running - r.slots;
                    changed := true;
                    s.returns_upto := greatest(s.returns_upto, r.upto);
                    more[r.at].running := more[r.at].running - r.slots;
                    more[r.at].whole := more[r.at].whole or r.anew;
                end loop;
                v_free := least(v_free, q.concurrency - s.running);
            end if;
            for i in 1..coalesce(cardinality(more), 0) loop
                if q.key_rate is not null then
                    more[i].rate := rate_at(q.key_rate, more[i].rate, now_);
                    more[i].tokens := rate_free(q.key_rate, more[i].rate);
                end if;
                more[i].room := least(p_limit, q.key_concurrency - more[i].running);
                if more[i].whole then
                    more[i].seen_at := '-infinity';
                    more[i].seen_id := nothing;
                    more[i].swept_at := now_;
                end if;
            end loop;
            ks := ks || more;
        end if;
        exit when v_free <= 0;
        v_live := 0;
        for i in 1..coalesce(cardinality(ks), 0) loop
            ks[i].live := ks[i].live and ks[i].room > 0 and ks[i].opens_at is null and not ks[i].tasks <@ v_blocked
                          and (v_tokens is null or v_tokens > 0);
            ks[i].asked := 0;
            ks[i].met := 0;
            v_live := v_live + ks[i].live::integer;
        end loop;

        for r in
            with k as materialized (
                select m.*, m.tag + m.got as place from unnest(ks) with ordinality m
            ), fair as (
                -- Each key's next entries stand at its tag, one more for each: the first of all as many as are free.
                select f.key, f.place, f.tasks, f.seen_at, f.seen_id, f.ordinality, count(*)::integer as n
                from (select k.*, j from k cross join generate_series(0, least(k.room, v_free, (v_free - 1) / greatest(v_live, 1) + 2) - 1) j
                      where k.live order by k.place + j, k.key limit v_free) f
                group by f.key, f.place, f.tasks, f.seen_at, f.seen_id, f.ordinality
            )
            select k.ordinality::integer as ki, 0 as n, 0::bigint as place, 0::bigint as nth, b.run_id, b.order_at, b.task,
                   b.rate_cost, b.next_cause, b.attempt, b.version, b.bumped_at, '' as key
            from (select i.run_id, i.order_at, i.task, i.rate_cost, i.next_cause, i.attempt, i.version, i.bumped_at, i.concurrency_key
                  from runs i where turn_ = 1 and i.cluster = p_cluster and i.namespace = p_namespace and i.queue = p_queue
                    and i.state = 'queued' and i.bumped_at is not null
                  order by i.bumped_at, i.run_id limit v_free for no key update skip locked) b
            join k on k.key = b.concurrency_key
            union all
            select k.ordinality::integer, 0, 1, 0, e.run_id, e.order_at, e.task,
                   e.rate_cost, e.next_cause, e.attempt, e.version, null, ''
            from (select i.run_id, i.order_at, i.task, i.rate_cost, i.next_cause, i.attempt, i.version, i.concurrency_key
                  from runs i where turn_ = 1 and (q.rate is not null or q.key_rate is not null)
                    and i.cluster = p_cluster and i.namespace = p_namespace and i.queue = p_queue
                    and i.state = 'queued' and i.next_cause in ('resume', 'infra') and i.bumped_at is null
                  order by i.order_at, i.run_id limit v_free for no key update skip locked) e
            join k on k.key = e.concurrency_key and not k.live
            union all
            select c.ordinality::integer, c.n, 2 + c.place + coalesce(e.nth, 1) - 1, e.nth, e.run_id, e.order_at, e.task,
                   e.rate_cost, e.next_cause, e.attempt, e.version, null, c.key
            from fair c left join lateral (
                select h.*, row_number() over (order by h.order_at, h.run_id) as nth
                from (select o.*
                      from (select w.task from unnest(c.tasks) w(task) where w.task <> all(v_blocked)) w
                      cross join lateral (
                          select i.run_id, i.order_at, i.task, i.rate_cost, i.next_cause, i.attempt, i.version
                          from runs i
                          where i.cluster = p_cluster and i.namespace = p_namespace and i.queue = p_queue
                            and i.concurrency_key = c.key and i.task = w.task and i.state = 'queued'
                            and (i.order_at, i.run_id) > (c.seen_at, c.seen_id) and i.bumped_at is null
                          order by i.order_at, i.run_id limit c.n for no key update skip locked) o
                      order by o.order_at, o.run_id limit c.n) h
            ) e on true
            order by 3, 12, 13, 6
        loop
            ki := r.ki;
            ks[ki].asked := greatest(ks[ki].asked, r.n);
            continue when r.run_id is null;
            if r.n > 0 then
                ks[ki].met := ks[ki].met + 1;
                ks[ki].seen_at := r.order_at;
                ks[ki].seen_id := r.run_id;
            end if;
            fits := v_free > 0 and ks[ki].room > 0 and not r.task = any(v_blocked);

            -- The task's version, its own limit and its semaphores: locked when they first come up, else left alone.
            ti := array_position(t_names, r.task);
            if fits and ti is null then
                v_still := pg_try_advisory_xact_lock_shared(hashtextextended(concat_ws('/', p_cluster, p_namespace, r.task), 0));
                select i.version, i.concurrency, i.semaphores::jsonb as semaphores into t from tasks i
                where i.cluster = p_cluster and i.namespace = p_namespace and i.name = r.task and i.present;
                ti := cardinality(t_names) + 1;
                t_names[ti] := r.task;
                t_versions[ti] := t.version;
                t_rooms[ti] := p_limit;
                t_units[ti] := null;
                if not v_still then
                    t_rooms[ti] := 0;
                    again_in := 0.02;
                elsif t.concurrency is not null then
                    perform from limits i where i.cluster = p_cluster and i.namespace = p_namespace and i.kind = 'task'
                        and i.name = r.task for no key update skip locked;
                    if found then
                        t_rooms[ti] := task_room(p_cluster, p_namespace, r.task, t.concurrency);
                    else
                        t_rooms[ti] := 0;
                        again_in := 0.02;
                    end if;
                end if;
                if t.semaphores is not null then
                    t_units[ti] := '{}';
                    for u in select e->>'name' as name, coalesce((e->>'units')::integer, 1) as units, (e->>'limit')::integer as most
                             from jsonb_array_elements(t.semaphores) e order by 1
                    loop
                        t_units[ti] := t_units[ti] || jsonb_build_object(u.name, least(u.units, u.most));
                        continue when u.name = any(m_names);
                        m_names := m_names || u.name::text;
                        perform from limits i where i.cluster = p_cluster and i.namespace = p_namespace
                            and i.kind = 'semaphore' and i.name = u.name for no key update skip locked;
                        if found then
                            m_rooms := m_rooms || semaphore_room(p_cluster, p_namespace, u.name);
                        else
                            m_rooms := m_rooms || 0;
                            again_in := 0.02;
                        end if;
                    end loop;
                end if;
            end if;
            if fits and t_versions[ti] is null then
                orphans := orphans || r.run_id::uuid;
                continue;
            end if;
            if fits and (t_rooms[ti] <= 0 or t_units[ti] is not null and exists (
                select from jsonb_each_text(t_units[ti]) e where m_rooms[array_position(m_names, e.key)] < e.value::integer))
            then
                -- Nothing that comes later may take the units that the first in line lacks.
                v_blocked := v_blocked || r.task::text;
                if t_rooms[ti] > 0 then
                    for u in select e.key, e.value::integer as units from jsonb_each_text(t_units[ti]) e loop
                        mi := array_position(m_names, u.key);
                        if m_rooms[mi] < u.units then
                            m_rooms[mi] := 0;
                        end if;
                    end loop;
                end if;
                fits := false;
            end if;
            if fits and r.next_cause in ('first', 'retry') then
                if q.rate is not null then
                    cost := rate_cost(q.rate, r.rate_cost);
                    if cost > v_tokens then
                        again_in := least(again_in, extract(epoch from rate_next(q.rate, rate_take(s.rate, v_taken), r.rate_cost) - now_));
                        v_tokens := 0;
                        fits := false;
                    end if;
                end if;
                if fits and q.key_rate is not null then
                    v_n := rate_cost(q.key_rate, r.rate_cost);
                    if v_n > ks[ki].tokens then
                        ks[ki].opens_at := rate_next(q.key_rate, rate_take(ks[ki].rate, ks[ki].taken), r.rate_cost);
                        again_in := least(again_in, extract(epoch from ks[ki].opens_at - now_));
                        ks[ki].tokens := 0;
                        fits := false;
                    else
                        ks[ki].tokens := ks[ki].tokens - v_n;
                        ks[ki].taken := ks[ki].taken + v_n;
                    end if;
                end if;
                if fits and q.rate is not null then
                    v_tokens := v_tokens - cost;
                    v_taken := v_taken + cost;
                end if;
            end if;
            if not fits then
                ks[ki].dropped := ks[ki].dropped or r.n > 0;
                continue;
            end if;

            if t_units[ti] is not null then
                for u in select e.key, e.value::integer as units from jsonb_each_text(t_units[ti]) e loop
                    mi := array_position(m_names, u.key);
                    m_rooms[mi] := m_rooms[mi] - u.units;
                end loop;
            end if;
            t_rooms[ti] := t_rooms[ti] - 1;
            v_free := v_free - 1;
            admitted := admitted + 1;
            if r.n > 0 then
                virtual_now := greatest(virtual_now, ks[ki].tag + ks[ki].got);
                if not ks[ki].dropped then
                    ks[ki].mark_at := r.order_at;
                    ks[ki].mark_id := r.run_id;
                end if;
            end if;
            ks[ki].got := ks[ki].got + 1;
            ks[ki].room := ks[ki].room - 1;
            a_run[admitted] := r.run_id;
            a_attempt[admitted] := r.attempt + 1;
            a_cause[admitted] := r.next_cause;
            a_task[admitted] := r.task;
            a_version[admitted] := coalesce(r.version, t_versions[ti]);
            a_units[admitted] := t_units[ti];
        end loop;

        v_live := 0;
        for i in 1..coalesce(cardinality(ks), 0) loop
            if ks[i].met < ks[i].asked then
                ks[i].live := false;
                if ks[i].whole then
                    ks[i].bare := not ks[i].tasks && v_blocked;
                else
                    again_in := least(again_in, extract(epoch from sweep_every));
                end if;
            end if;
            v_live := v_live + (ks[i].live and ks[i].room > 0 and ks[i].opens_at is null and not ks[i].tasks <@ v_blocked)::integer;
        end loop;
        exit when v_free <= 0 or v_tokens <= 0;
        -- Those at hand had less than there is room for: those next in turn come before they are asked again.
        select array_agg(w.key) into names from (
            select i.key from queue_keys i
            where i.cluster = p_cluster and i.namespace = p_namespace and i.queue = p_queue and i.open and i.tasks <> '{}'
              and i.tag >= case when v_sweep then -1 else s.virtual - 1 end and not i.tasks <@ v_blocked
              and i.key <> all(select m.key from unnest(ks) m)
            order by i.tag, i.key limit greatest(p_limit, few + 2)) w;
        exit when names is null and v_live = 0;
    end loop;

    if cardinality(orphans) > 0 then
        -- Its attempt was still at work when the waiting runs of its Task were held.
        update runs i
        set state = 'held', held_at = clock_timestamp(), reason = 'TaskNotFound', rev = i.rev + 1,
            message = format('the Task %s was deleted: apply it again, or delete the run', i.task)
        where i.run_id = any(orphans);
    end if;
    if admitted > 0 then
        with bound as materialized (
            select b.*, nextval('fencing_tokens') as token, substr(replace(gen_random_uuid()::text, '-', ''), 1, 16) as pod_id
            from unnest(a_run, a_attempt, a_cause, a_task, a_version, a_units) b (run_id, attempt, cause, task, version, units)
        ), admitted_runs as (
            update runs i
            set state = 'admitted', attempt = b.attempt, version = b.version, reason = null, message = null, wait_code = null, noted = null,
                bumped_at = null, semaphores = b.units, admitted_at = coalesce(i.admitted_at, clock_timestamp()),
                event_count = i.event_count + (b.attempt = 1)::integer, rev = i.rev + (b.attempt = 1)::integer
            from bound b where i.run_id = b.run_id
            returning i.run_id, i.event_count
        ), heads as (
            update run_heads i set attempt = b.attempt, token = b.token, pod_id = b.pod_id, beat_at = null, lease_until = null
            from bound b where i.run_id = b.run_id
            returning i.run_id, i.last_seq
        ), new_pods as (
            insert into pods (pod_id, cluster, namespace, task, version, state, run_id, attempt)
            select b.pod_id, p_cluster, p_namespace, b.task, b.version, 'wanted', b.run_id, b.attempt from bound b
        ), new_attempts as (
            insert into attempts (run_id, attempt, token, cause, state, pod_id, resumed_after)
            select b.run_id, b.attempt, b.token, b.cause, 'reserved', b.pod_id, h.last_seq
            from bound b join heads h on h.run_id = b.run_id
        )
        insert into run_events (run_id, seq, reason, message)
        select b.run_id, a.event_count, 'RunAdmitted', format('admitted by queue %s, version %s of task %s', p_queue, b.version, b.task)
        from bound b join admitted_runs a on a.run_id = b.run_id where b.attempt = 1;
    end if;

    -- A key under which nothing is left rests after a second look; where there are few, it stays in turn for a while.
    with judged as (
        select m.*, m.bare and not m.stays and m.got = 0 and (m.emptied or not m.used) as rests
        from (select m.*, m.bare and m.used and cardinality(ks) <= few as stays
              from (select m.*, o.tasks as were, o.running as ran, o.emptied as was_emptied,
                           m.got > 0 or o.touched_at > now_ - interval '5 seconds' as used,
                           not m.live and m.room > 0 and m.opens_at is null and not m.tasks <@ v_blocked as dry
                    from unnest(ks) m join queue_keys o on o.ctid = m.tid) m) m
    ), due as materialized (
        select * from judged m
        where m.got > 0 or m.running <> m.ran or m.bare and (not m.stays or m.tag < virtual_now) or m.opens_at is not null
              or m.was_emptied or m.dry and m.tag < virtual_now
    ), done as (
        update queue_keys k
        -- a key that had nothing more saves up no turns, and stays among those that the next claim looks at
        set running = m.running + m.got,
            tag = case when m.bare or m.dry then greatest(m.tag + m.got, virtual_now) else m.tag + m.got end,
            mark_at = m.mark_at, mark_id = m.mark_id, swept_at = m.swept_at,
            rate = case when m.taken > 0 then rate_take(m.rate, m.taken) else m.rate end,
            touched_at = case when m.got > 0 then now_ else k.touched_at end,
            tasks = case when m.rests then '{}' else m.tasks end,
            emptied = case when m.bare then not m.stays and not m.rests else m.emptied and m.opens_at is not null end,
            opens_at = case when m.bare then case when not m.stays and not m.rests then now_ + interval '100 milliseconds' end
                            else m.opens_at end,
            open = (q.key_concurrency is null or m.running + m.got < q.key_concurrency)
                   and case when m.bare then m.stays or m.rests else m.opens_at is null end
        from due m where k.ctid = m.tid
        returning k.emptied
    )
    select (select count(*) from due) as due, count(*) as done, coalesce(bool_or(d.emptied), false) as emptied into r from done d;
    if r.due <> r.done then
        raise exception 'a key of queue %/% moved under its lock', p_namespace, p_queue using errcode = 'serialization_failure';
    end if;
    if r.emptied then
        again_in := least(again_in, 0.1);
    end if;
    if changed or r.done > 0 then
        update queue_states i
        set turn = i.turn + 1, running = s.running + admitted, virtual = virtual_now, limits = s.limits,
            returns_upto = s.returns_upto, swept_at = s.swept_at, counted_at = s.counted_at,
            rate = case when v_taken > 0 then rate_take(s.rate, v_taken) else s.rate end
        where i.cluster = p_cluster and i.namespace = p_namespace and i.queue = p_queue and i.turn = s.turn;
    end if;
end $$;
