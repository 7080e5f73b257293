"""What warm pods cost grows with them alone: not with pods at work, nor with those that are closed."""

import json
from datetime import timedelta
from typing import Any

import asyncpg

from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.store import PostgresStore
from tests.integration.engine import NS, apply_task
from tests.integration.test_plans import nodes

CLOSED = 6_000
AT_WORK = 1_500
WARM = 5
ROWS = """
create temporary table made as
select gen_random_uuid() as run_id, 'p' || n as pod_id, n, state
from generate_series(1, $2::int + $3::int + 2 * $4::int) n
cross join lateral (select case when n <= $2 then 'closed' when n <= $2 + $3 then 'bound' when n <= $2 + $3 + $4
                                then 'wanted' else 'idle' end as state) s;
insert into pods (pod_id, cluster, namespace, task, version, state, run_id, attempt, closed_at, rested_at,
                  template_hash)
select pod_id, 'default', $1, 'index', 1, state, case when state <> 'idle' then run_id end,
       case when state <> 'idle' then 1 end, case when state = 'closed' then now() end, now(), 'template' from made;
insert into runs (run_id, cluster, namespace, name, task, version, queue, state, input, input_hash, origin, attempt,
                  finished_at)
select run_id, 'default', $1, 'r' || n, 'index', 1, 'default',
       case state when 'closed' then 'succeeded' when 'bound' then 'running' else 'admitted' end, '{}', '', 'api', 1,
       case when state = 'closed' then now() end from made where state <> 'idle';
insert into run_heads (run_id, attempt, token, pod_id) select run_id, 1, n, pod_id from made where state <> 'idle';
insert into attempts (run_id, attempt, token, cause, state, pod_id, reason, ended_at)
select run_id, 1, n, 'first', case state when 'closed' then 'ended' when 'bound' then 'running' else 'reserved' end,
       pod_id, case when state = 'closed' then 'x' end, case when state = 'closed' then now() end
from made where state <> 'idle';
"""
SECONDS = timedelta(seconds=1)
QUERIES: dict[str, list[object]] = {
    "idle_pods": ["default", None],
    "overdue_resting": ["default", SECONDS],
    "overdue_offers": ["default", SECONDS, 100],
    "still_waiting": ["default", ["p1", "p2"]],
    "hand_over": ["default"],
    "begin_attempts": [["p1", "p2"], ["u1", "u2"], "default", SECONDS, 1, 1, 1.0, 1.0],
    "lines": ["default", SECONDS, 32],
    "take_wanted": ["default", 1, ["p1", "p2"], [False, False], 100],
    "take_ahead": ["default", 1, 100],
    "overdue_ahead": ["default"],
    "unmake_ahead": ["default"],
    "yielded_ago": ["default", SECONDS],
    "forget_ahead": ["default"],
    "code_of": ["default", "p1"],
}


async def test_what_warm_pods_cost_does_not_grow_with_the_others(store: PostgresStore) -> None:
    await apply_task(store)
    await store.take_epoch("test", "template")
    connection = await asyncpg.connect(
        store._db.settings.dsn, server_settings={"search_path": "milepost", "jit": "off"}
    )
    numbers = {"$1": f"'{NS}'", "$2": str(CLOSED), "$3": str(AT_WORK), "$4": str(WARM)}
    text = ROWS
    for name, value in numbers.items():
        text = text.replace(name, value)
    await connection.execute(text + "analyze")
    read = {}
    for name, arguments in QUERIES.items():
        transaction = connection.transaction()
        await transaction.start()
        plan = await connection.fetchval(f"explain (analyze, timing off, format json) {Q[name]}", *arguments)
        await transaction.rollback()
        read[name] = most_read(nodes(json.loads(plan)[0]["Plan"]))
    await connection.execute("truncate runs, run_heads, pods, attempts cascade")
    await connection.close()
    assert {name: rows for name, rows in read.items() if rows > 4 * WARM} == {}


def most_read(found: list[dict[str, Any]]) -> int:
    """Rows that the busiest scan of a table looked at."""
    scans = [n for n in found if n.get("Relation Name") in {"pods", "runs", "attempts", "run_heads"}]
    return max(n["Actual Loops"] * (n["Actual Rows"] + n.get("Rows Removed by Filter", 0)) for n in scans)
