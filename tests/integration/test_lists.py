"""Every filter, alone and together, gives what a plain query over all rows gives, page by page."""

from datetime import UTC, datetime, timedelta

import pytest

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.lifecycle import RunFilter
from milepost_operator.domain.states import RunState
from tests.integration.engine import NS
from tests.integration.lists import fill

ROWS = 3_000
NOW = datetime.now(UTC)
FAILING = "r.state in ('failed', 'timedOut', 'expired')"


def ago(seconds: int) -> datetime:
    return NOW - timedelta(seconds=seconds)


CASES: list[tuple[RunFilter, str, list[object]]] = [
    (RunFilter(), "true", []),
    (RunFilter(task="task7"), "r.task = $2", ["task7"]),
    (RunFilter(queue="queue3"), "r.queue = $2", ["queue3"]),
    (RunFilter(states=(RunState.FAILED,)), "r.state = $2", ["failed"]),
    (RunFilter(states=(RunState.FAILED, RunState.RUNNING)), "r.state = any($2::text[])", [["failed", "running"]]),
    (RunFilter(tag="rare"), "$2 = any(r.tags)", ["rare"]),
    (RunFilter(tag="common"), "$2 = any(r.tags)", ["common"]),
    (RunFilter(tag="common", states=(RunState.SUCCEEDED, RunState.RUNNING)),
     "$2 = any(r.tags) and r.state in ('succeeded', 'running')", ["common"]),
    (RunFilter(key="tenant-5"), "r.concurrency_key = $2", ["tenant-5"]),
    (RunFilter(idempotency_key="key-100"), "r.idempotency_key = $2", ["key-100"]),
    (RunFilter(created_after=ago(2000), created_before=ago(1000)),
     "r.created_at >= $2 and r.created_at < $3", [ago(2000), ago(1000)]),
    (RunFilter(finished_after=ago(2000), finished_before=ago(1000)),
     "r.finished_at >= $2 and r.finished_at < $3", [ago(2000), ago(1000)]),
    (RunFilter(finished_after=ago(2000), tag="common", states=(RunState.SUCCEEDED, RunState.FAILED)),
     "r.finished_at >= $2 and 'common' = any(r.tags) and r.state in ('succeeded', 'failed')", [ago(2000)]),
    (RunFilter(min_seconds=590, max_seconds=595.5),
     "r.finished_at - r.started_at between make_interval(secs => $2) and make_interval(secs => $3)", [590.0, 595.5]),
    (RunFilter(error="VALUEERROR: no"), f"{FAILING} and r.message ilike $2", ["%valueerror: no%"]),
    (RunFilter(error="file 903", task="task3"), f"{FAILING} and r.message like $2 and task = 'task3'", ["%file 903%"]),
    (RunFilter(error="runtimeout", states=(RunState.TIMED_OUT, RunState.RUNNING)),
     "r.state = 'timedOut' and r.reason = $2", ["RunTimeout"]),
    (RunFilter(error="100%_"), "false", []),
    (RunFilter(task="task3", queue="queue3", states=(RunState.FAILED,)),
     "r.task = 'task3' and r.queue = 'queue3' and r.state = 'failed'", []),
]  # fmt: skip


@pytest.mark.parametrize("namespace", [NS, None])
async def test_pages_hold_what_a_plain_query_finds(
    store: PostgresStore, namespace: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milepost_operator.adapters.postgres.listing.WINDOW", 50)
    await fill(store, NS, ROWS)
    await store._db.fetch("update runs set namespace = 'other' where state = 'succeeded' and right(name, 1) = '4'")
    await store._db.fetch("update run_tags t set namespace = r.namespace from runs r where r.run_id = t.run_id")
    for asked, condition, arguments in CASES:
        at = "r.finished_at" if asked.by_finish else "r.created_at"
        expected = await store._db.fetch(
            f"select r.run_id from runs r where {condition} and ($1::text is null or r.namespace = $1)"
            f" order by {at} desc, r.run_id desc",
            namespace,
            *arguments,
        )
        found, before, pages = [], None, 0
        while True:
            page = await store.page(namespace, asked, before, 400)
            found += [item["id"] for item in page.items]
            before, pages = page.following, pages + 1
            if before is None:
                break
        assert found == [str(row["run_id"]) for row in expected], asked
        assert pages < 20, asked
