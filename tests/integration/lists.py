"""Many runs at once, by SQL: rows as the engine leaves them, of every state, for tests and benchmarks of lists."""

from milepost_operator.adapters.postgres.store import PostgresStore

FILL = """
insert into runs (run_id, cluster, namespace, name, task, queue, state, reason, message, input, input_hash, tags,
                  idempotency_key, concurrency_key, priority, origin, created_at, ready_at, order_at, started_at,
                  finished_at, dead_lettered, dead_lettered_at, retry, version, attempt)
select gen_random_uuid(), 'default', $1, 'r' || n, 'task' || n % 20, 'queue' || n % 10, s.state,
       case s.state when 'failed' then 'TaskFailed' when 'timedOut' then 'RunTimeout' end,
       case s.state when 'failed' then 'ValueError: no such file ' || n % 1000 end,
       '{"n": 1}', '', case when n % 1000 = 0 then '{rare}'::text[] when n % 4 = 0 then '{common}'::text[]
                            when n % 100 = 1 then '{some}'::text[] else '{}' end,
       case when n % 50 = 0 then 'key-' || n end, case when n % 5 = 0 then 'tenant-' || n % 500 else '' end, 0, 'api',
       t.at, t.at, t.at, case when s.state <> 'queued' then t.at end,
       case when s.state not in ('queued', 'running', 'suspended') then t.at + (n % 600 + 1) * interval '1 second' end,
       s.state = 'failed' and n % 500 = 3, case when s.state = 'failed' and n % 500 = 3 then t.at end,
       '{"max_attempts": 3}', 1, (s.state <> 'queued')::int
from generate_series(1, $2::int) n
cross join lateral (select now() - ($2::int - n) * interval '1 second' as at) t
cross join lateral (select case when n > $2::int - 50 then 'running' when n > $2::int * 0.97 then 'queued'
    when n % 50 = 3 then 'failed' when n % 200 = 5 then 'timedOut' when n % 1000 = 7 then 'cancelled'
    when n % 2000 = 9 then 'suspended' else 'succeeded' end as state) s
"""
HEADS = "insert into run_heads (run_id, last_seq, records) select run_id, 0, 0 from runs"
ATTEMPTS = """
insert into attempts (run_id, attempt, token, cause, state, pod_id, reason, ended_at)
select run_id, 1, nextval('fencing_tokens'), 'first', case when finished_at is null then 'running' else 'ended' end,
       'pod', case when finished_at is not null then 'End' end, finished_at
from runs where attempt = 1 and state <> 'suspended'
"""
QUEUES = """
insert into queues (cluster, namespace, name, uid, generation)
select 'default', $1, 'queue' || n, '', 1 from generate_series(0, 9) n
"""
ENDS = """
insert into run_events (run_id, seq, reason, message, terminal)
select run_id, 1, 'End', '', true from runs where finished_at is not null
"""


async def fill(store: PostgresStore, namespace: str, count: int) -> None:
    """`count` runs a second apart: mostly succeeded, 2 % failed, the newest 3 % live."""
    pool = store._db.pool
    async with pool.acquire() as connection:
        await connection.execute("set statement_timeout = 0")
        await connection.execute(QUEUES, namespace)
        await connection.execute(FILL, namespace, count, timeout=600)
        await connection.execute(HEADS, timeout=600)
        await connection.execute(ATTEMPTS, timeout=600)
        await connection.execute(ENDS, timeout=600)
        await connection.execute("vacuum analyze", timeout=600)
        await connection.execute("set statement_timeout = '10s'")
