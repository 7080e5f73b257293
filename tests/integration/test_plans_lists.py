"""A page costs the same at any size of the table and whatever is asked for: buffers by EXPLAIN, at 100,000 runs."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import TypeAdapter

from milepost_operator.adapters.postgres import filters
from milepost_operator.adapters.postgres.listing import WINDOW
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.api.views import RunSummaryOut
from milepost_operator.domain.lifecycle import CANCELLABLE, RunFilter
from milepost_operator.domain.states import RunState
from milepost_operator.settings import Settings
from tests.integration.engine import NS
from tests.integration.lists import fill

ROWS = 100_000
LIMIT = 501
NOW = datetime.now(UTC)
MIDDLE, LATER = NOW - timedelta(seconds=ROWS // 2), NOW - timedelta(seconds=ROWS // 2 - 3600)

CASES = {
    "none": (RunFilter(), 700),
    "task": (RunFilter(task="task7"), 700),
    "no such task": (RunFilter(task="nothing"), 20),
    "queue": (RunFilter(queue="queue3"), 700),
    "succeeded": (RunFilter(states=(RunState.SUCCEEDED,)), 700),
    "suspended": (RunFilter(states=(RunState.SUSPENDED,)), 200),
    "expired (none)": (RunFilter(states=(RunState.EXPIRED,)), 20),
    "states": (RunFilter(states=(RunState.FAILED, RunState.RUNNING, RunState.CANCELLED)), 2000),
    "live": (RunFilter(states=CANCELLABLE, task="task3"), 6000),
    "common tag": (RunFilter(tag="common"), 3000),
    "rare tag": (RunFilter(tag="rare"), 700),
    "no such tag": (RunFilter(tag="nothing"), 20),
    "key": (RunFilter(key="tenant-5"), 700),
    "idempotency key": (RunFilter(idempotency_key="key-50000"), 20),
    "created": (RunFilter(created_after=MIDDLE, created_before=LATER), 700),
    "finished": (RunFilter(finished_after=MIDDLE, finished_before=LATER), 700),
    "common duration": (RunFilter(min_seconds=100), 1000),
    "rare duration": (RunFilter(min_seconds=599.5, max_seconds=600.5), 1000),
    "no such duration": (RunFilter(min_seconds=86_400), 20),
}


async def buffers(store: PostgresStore, query: str, arguments: object) -> tuple[int, str]:
    async with store._db.pool.acquire() as connection, connection.transaction():
        await connection.execute(Q["list_settings"])
        (row,) = await connection.fetch(f"explain (analyze, buffers, format json) {query}", *arguments)
    plan: dict[str, Any] = json.loads(row[0])[0]["Plan"]
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], json.dumps(plan, indent=1)


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[PostgresStore]:
    """Rows that no engine made keep few of its promises: none are asked for at the end."""
    async with PostgresStore.open(settings) as opened:
        yield opened


@pytest.mark.timeout(300)
async def test_a_page_of_any_filter_touches_few_buffers(store: PostgresStore) -> None:
    await fill(store, NS, ROWS)
    spent = {}
    for name, (asked, _) in CASES.items():
        query, arguments = filters.ids("default", [NS], asked, None, LIMIT)
        spent[name] = await buffers(store, query, arguments)
    over = {name: count for name, (count, _) in spent.items() if count > CASES[name][1]}
    assert over == {}, "\n".join(spent[name][1] for name in over)
    for text in ("valueerror", "no such file 777", "disk full"):
        query, arguments = filters.failures("default", [NS], RunFilter(error=text), None, window=WINDOW, limit=LIMIT)
        count, plan = await buffers(store, query, arguments)
        assert count < 3 * WINDOW, plan
        assert json.loads(plan)["Actual Rows"] <= LIMIT, plan
    query, arguments = filters.dead_letters("default", NS, RunFilter(), None, LIMIT)
    count, plan = await buffers(store, query, arguments)
    assert count < 700, plan
    ids = [r["run_id"] for r in await store._db.fetch("select run_id from runs order by run_id limit 500")]
    count, plan = await buffers(store, Q["summaries"], (ids, list(range(500)), 3))
    assert count < 500 * 12, plan
    (row,) = await store._db.fetch(Q["summaries"], ids, list(range(500)), 3)  # rows of columns cost twice as much
    shown = TypeAdapter(list[RunSummaryOut]).validate_json(row["shown"])
    assert [UUID(run.id) for run in shown] == ids
    assert json.loads(row["shown"])[0].keys() == {f.alias for f in RunSummaryOut.model_fields.values()}
