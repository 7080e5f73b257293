"""Looking at a queue, and asking why a run waits, read no whole backlog."""

import json

import pytest

from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.queues import MAX_DEPTH_COUNTED
from milepost_operator.domain.runs import QueueIntake
from milepost_operator.domain.why import MAX_AHEAD
from tests.integration.engine import NS, apply_task

SMALL, BIG = 12_000, 60_000
FILL = """
insert into runs (run_id, cluster, namespace, name, task, queue, state, input, input_hash, origin, concurrency_key,
                  order_at, ready_at)
select gen_random_uuid(), 'default', $1, 'r' || n, 'index', 'agents', 'queued', '{}', '\\x00', 'api', 'k' || n % 50,
       clock_timestamp() + n * interval '1 ms', clock_timestamp()
from generate_series($2::int, $3::int) n
"""


async def buffers(store: PostgresStore, name: str, *args: object) -> int:
    """Pages that a query touches, its plan being the one for any arguments."""
    async with store._db.pool.acquire() as connection, connection.transaction():
        await connection.execute("set local plan_cache_mode = force_generic_plan")
        row = await connection.fetchval(f"explain (analyze, buffers, format json) {Q[name]}", *args)
    (plan,) = json.loads(row)
    return plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]


async def fill(store: PostgresStore, first: int, last: int) -> None:
    await store._db.pool.execute(FILL, NS, first, last, timeout=60)
    await store._db.pool.execute("vacuum analyze runs", timeout=60)


@pytest.mark.timeout(180)
async def test_a_longer_backlog_costs_no_more(store: PostgresStore) -> None:
    await store.apply_queue(QueueIntake(NS, "agents", "uid", 1, 5))
    await apply_task(store, queue="agents")
    view = ("queue_views", "default", None, None, MAX_DEPTH_COUNTED)
    await fill(store, 1, SMALL)
    last = "select run_id from runs order by order_at desc limit 1"
    before = [
        await buffers(store, *view),
        await buffers(store, "why_place", await store._db.pool.fetchval(last), MAX_AHEAD),
    ]
    await fill(store, SMALL + 1, BIG)
    after = [
        await buffers(store, *view),
        await buffers(store, "why_place", await store._db.pool.fetchval(last), MAX_AHEAD),
    ]
    assert after[0] <= before[0] * 1.3 + 50
    assert after[1] <= MAX_AHEAD * 3
    shown = await store.get_queue(NS, "agents")
    assert (shown.depth, shown.capped) == (MAX_DEPTH_COUNTED, True)
    why = await store.why(await store._db.pool.fetchval(last))
    assert why is not None
    assert why.sentence.startswith("behind more than 1,000 others of key `k")
