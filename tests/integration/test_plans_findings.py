"""Looking at a Task costs the same however long its history, and however many runs others have."""

import json
from datetime import timedelta

import asyncpg

from milepost_operator.adapters.postgres.findings import ATTEMPTS, RUNS
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.store import PostgresStore
from tests.integration.engine import NS, apply_task
from tests.integration.test_plans import nodes

ROWS = """
create temporary table made as
select gen_random_uuid() as run_id, n, case when n % 5 = 0 then 'other' else 'index' end as task, n % 7 = 0 as bad
from generate_series(1, 20000) n;
insert into runs (run_id, cluster, namespace, name, task, version, queue, state, input, input_hash, origin, attempt,
                  attempts_counted, created_at, finished_at)
select run_id, 'default', '{ns}', 'r' || n, task, 1, 'default', case when bad then 'failed' else 'succeeded' end,
       '{{}}', '', 'api', 2, bad::int, now() - n * interval '1 minute', now() - n * interval '1 minute' from made;
insert into run_heads (run_id, last_seq) select run_id, 2 from made;
insert into attempts (run_id, attempt, token, cause, state, pod_id, reason, resumed_after, reserved_at, started_at,
                      ended_at)
select run_id, a, 2 * n + a, 'first', 'ended', 'p' || n, 'x', a - 1, now(), now(), now()
from made, generate_series(1, 2) a;
insert into records (run_id, seq, kind, key, attempt, write_id, value, bytes)
select run_id, s, 'step', 's' || s, s, 'w' || s, '1', 1 from made, generate_series(1, 2) s where n <= 4000;
insert into pods (pod_id, cluster, namespace, task, version, state, closed_at)
select 'p' || n, 'default', '{ns}', task, 1, 'closed', now() from made;
insert into task_checks (cluster, namespace, task, checked_at) select 'default', '{ns}', 't' || n, now() from made;
analyze
"""


async def test_what_a_look_reads_is_bounded(store: PostgresStore) -> None:
    await apply_task(store)
    connection = await asyncpg.connect(
        store._db.settings.dsn, server_settings={"search_path": "milepost", "jit": "off"}
    )
    await connection.execute(ROWS.format(ns=NS))
    explain = "explain (analyze, timing off, format json) "
    read = {}
    for name, arguments in {
        "tried": ["default", NS, "index", RUNS, ATTEMPTS],
        "findings_of": ["default", NS, "index"],
        "to_remedy": ["default", 20],
        "claim_checks": ["default", timedelta(seconds=30), 20],
    }.items():
        transaction = connection.transaction()
        await transaction.start()
        plan = await connection.fetchval(explain + Q[name], *arguments)
        await transaction.rollback()
        scans = [n for n in nodes(json.loads(plan)[0]["Plan"]) if n.get("Relation Name")]
        read[name] = max(n["Actual Loops"] * (n["Actual Rows"] + n.get("Rows Removed by Filter", 0)) for n in scans)
    await connection.execute("truncate runs, run_heads, pods, attempts, records cascade")
    await connection.close()
    assert {name: rows for name, rows in read.items() if rows > 2 * RUNS * ATTEMPTS} == {}
