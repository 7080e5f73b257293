"""A claim touches what it admits, however long the backlog: its plans, and the pages it reads, on 100,000 waiting runs.

`MILEPOST_PLAN_ROWS=1000000` makes it a million.
"""

import json
import os
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import Rate
from milepost_operator.settings import Settings
from tests.integration.engine import NS, apply_task
from tests.integration.limits import claim, enqueue, finish, queue

ROWS = int(os.environ.get("MILEPOST_PLAN_ROWS", "100000"))

pytestmark = pytest.mark.timeout(900)

BACKLOG = """
insert into runs (run_id, cluster, namespace, name, task, queue, state, input, input_hash, origin, retry, timeouts,
                  concurrency_key, order_at, finished_at)
select gen_random_uuid(), 'default', $1, 'b' || n, 'index', 'q', case when n % 5 = 0 then 'succeeded' else 'queued' end,
       '{}', '', 'api', '{}', '{}', case when n % 10 = 1 then 'k' || n % 1000 else 'full' end,
       clock_timestamp() + n * interval '1 millisecond', case when n % 5 = 0 then now() end
from generate_series(1, $2::int) n
"""
EVENTS = """
insert into run_events (run_id, seq, reason, message, terminal)
select run_id, 1, 'x', '', true from runs where finished_at is not null
"""
HEADS = "insert into run_heads (run_id) select run_id from runs"


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *[n for child in plan.get("Plans", []) for n in nodes(child)]]


@pytest.fixture
async def explained(settings: Settings) -> AsyncIterator[tuple[asyncpg.Connection, list[dict[str, Any]]]]:
    """A connection, and the plans of every statement that ran on it, those inside functions included."""
    plans: list[dict[str, Any]] = []
    connection = await asyncpg.connect(settings.dsn, server_settings={"search_path": "milepost", "jit": "off"})
    connection.add_log_listener(lambda _, m: plans.append(json.loads(m.message[m.message.index("{") :])))
    await connection.execute(
        "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;"
        "set auto_explain.log_analyze = on; set auto_explain.log_buffers = on; set auto_explain.log_timing = off;"
        "set auto_explain.log_format = json;"
        "set client_min_messages = log",
    )
    yield connection, plans
    await connection.close()


async def backlog(store: PostgresStore, **limits: object) -> None:
    """Nine tenths of the runs that wait are behind a key that takes a hundred at most."""
    await apply_task(store, queue="q")
    await queue(store, key_concurrency=100, **limits)
    connection = await asyncpg.connect(store._db.settings.dsn, server_settings={"search_path": "milepost"})
    await connection.execute(BACKLOG, NS, ROWS)
    await connection.execute(HEADS)
    await connection.execute(EVENTS)
    await connection.execute("analyze")
    await connection.close()
    assert await claim(store) == 200


@pytest.mark.parametrize("limits", [{}, {"concurrency": 100_000, "rate": Rate(1_000_000, 60)}], ids=["keys", "gated"])
async def test_a_claim_reads_no_more_than_it_admits(
    store: PostgresStore,
    explained: tuple[asyncpg.Connection, list[dict[str, Any]]],
    limits: dict[str, object],
) -> None:
    await backlog(store, **limits)
    connection, plans = explained
    for _ in range(5):
        assert await connection.fetchval("select admitted from admit('default', $1, 'q', 10)", NS) == 10
    plans.clear()
    assert await connection.fetchval("select admitted from admit('default', $1, 'q', 10)", NS) == 10
    looks = [plan["Query Text"] for plan in plans if "FOR KEY SHARE" in plan["Query Text"]]
    assert looks == []  # a reference that is checked for each attempt and event cost two fifths of the claim
    found = [node for plan in plans for node in nodes(plan["Plan"])]
    of_runs = [n for n in found if n.get("Relation Name") == "runs" and "Scan" in n["Node Type"]]
    assert {n["Index Name"] for n in of_runs} <= {"runs_claim", "runs_bumped", "runs_exempt", "runs_pkey"}
    keys = [n for n in found if n.get("Relation Name") == "queue_keys" and "Scan" in n["Node Type"]]
    assert {n.get("Index Name", n["Node Type"]) for n in keys} <= {
        "queue_keys_order",
        "queue_keys_newest",
        "queue_keys_opening",
        "Tid Scan",
    }
    states = [n for n in found if n.get("Relation Name") == "queue_states" and "Scan" in n["Node Type"]]
    assert {n["Index Name"] for n in states} == {"queue_states_pkey"}
    read = [n["Actual Rows"] * n["Actual Loops"] + n.get("Rows Removed by Filter", 0) for n in of_runs + keys]
    assert max(read) <= 120, read  # keys with all their slots taken and the backlog behind them are not looked at
    (whole,) = [
        plan["Plan"]
        for plan in plans
        if plan["Plan"]["Node Type"] == "Function Scan" and plan["Plan"].get("Function Name") == "admit"
    ]
    assert whole["Shared Hit Blocks"] + whole["Shared Read Blocks"] < 2000


@pytest.mark.parametrize("query", ["queues_with_work", "find_waiting"])
async def test_the_search_for_work_reads_no_backlog(store: PostgresStore, query: str) -> None:
    await backlog(store)
    args: list[object] = ["default"] if query == "find_waiting" else ["default", True]
    (row,) = await store._db.fetch(f"explain (analyze, timing off, format json) {Q[query]}", *args)
    found = nodes(json.loads(row[0])[0]["Plan"])
    assert [n for n in found if n["Node Type"] == "Seq Scan" and n.get("Relation Name") == "runs"] == []
    read = sum(n["Actual Rows"] * n["Actual Loops"] for n in found if n.get("Relation Name") == "runs")
    assert read <= 110, read  # one for each of the hundred keys


async def test_a_slot_that_comes_back_is_folded_by_index(
    store: PostgresStore, explained: tuple[asyncpg.Connection, list[dict[str, Any]]]
) -> None:
    await apply_task(store, queue="q")
    await queue(store, concurrency=50)
    await enqueue(store, 200)
    assert await claim(store) == 50
    connection, plans = explained
    assert await finish(store, 20) == 20
    assert await connection.fetchval("select admitted from admit('default', $1, 'q', 10)", NS) == 10
    found = [node for plan in plans for node in nodes(plan["Plan"]) if node.get("Relation Name") == "slot_returns"]
    assert {n["Index Name"] for n in found if "Scan" in n["Node Type"]} == {"slot_returns_pkey"}
