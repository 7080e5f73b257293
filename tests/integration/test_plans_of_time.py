"""What time brings, and what is to be shown, is found by its index, however many runs wait or sleep."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.store import PostgresStore
from tests.integration.engine import NS, apply_task

BACKLOG = """
insert into runs (run_id, cluster, namespace, name, task, queue, state, input, input_hash, origin, finished_at,
                  expires_at)
select gen_random_uuid(), 'default', $1, 'r' || n, 'index', 'default',
       case when n % 2 = 0 then 'queued' else 'succeeded' end,
       '{}', '', 'api', case when n % 2 = 1 then now() end, now() + interval '1 day'
from generate_series(1, 20000) n
"""


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *[n for child in plan.get("Plans", []) for n in nodes(child)]]


SLEEPERS = """
with made as (
    insert into runs (run_id, cluster, namespace, name, task, queue, state, reason, suspended_at, input, input_hash,
                      origin, deadline_at, run_deadline_at)
    select gen_random_uuid(), 'default', $1, 's' || n, 'index', 'default', 'suspended', 'Suspended', now(), '{}', '',
           'api', now() + interval '1 day', now() + interval '1 day'
    from generate_series(1, 5000) n
    returning run_id
)
insert into waits (wait_id, run_id, key, kind, until)
select gen_random_uuid(), run_id, 'k', 'timer', now() + interval '1 day' from made
"""


@pytest.mark.parametrize(
    ("query", "args", "indexes"),
    [
        ("lock_woken", ["default", 200], {"waits_timers"}),
        ("expire_queued", ["default", 200], {"runs_past_ttl"}),
        ("overdue_waiting", ["default", 200, timedelta(days=1), None], {"runs_past_deadline", "runs_past_time"}),
        ("release_held", ["default", 200], {"runs_held"}),
        ("due", ["default", 200, timedelta(seconds=15)], {"runs_behind", "runs_slots"}),
        ("run_of_cr", ["default", NS, "cr-1"], {"runs_cr", "runs_intent"}),
        ("lost_crs", ["default", ["cr-1"], datetime(2026, 1, 1, tzinfo=UTC)], {"runs_cr"}),
    ],
)
async def test_what_time_brings_is_found_by_index(
    store: PostgresStore, query: str, args: list[object], indexes: set[str]
) -> None:
    await apply_task(store)
    await store._db.fetch(BACKLOG, NS)
    await store._db.fetch(SLEEPERS, NS)
    await store._db.fetch("insert into run_heads (run_id) select run_id from runs")
    await store._db.fetch(
        "insert into run_events (run_id, seq, reason, message, terminal)"
        " select run_id, 1, 'x', '', true from runs where finished_at is not null",
    )
    await store._db.fetch("analyze")
    (row,) = await store._db.fetch(f"explain (format json) {Q[query]}", *args)
    found = nodes(json.loads(row[0])[0]["Plan"])
    assert indexes <= {n.get("Index Name") for n in found}
    assert [n for n in found if n["Node Type"] == "Seq Scan" and n.get("Relation Name") in {"runs", "waits"}] == []


HELD = """
insert into runs (run_id, cluster, namespace, name, task, queue, state, reason, held_at, input, input_hash, origin)
select gen_random_uuid(), 'default', $1, 'h' || n, 'gone' || n % 7, 'default', 'held', 'TaskNotFound', now(), '{}', '',
       'api'
from generate_series(1, 7000) n
"""


async def test_runs_that_are_held_cost_admission_a_look_for_each_task(store: PostgresStore) -> None:
    await apply_task(store)
    await store._db.fetch(HELD, NS)
    await store._db.fetch("insert into run_heads (run_id) select run_id from runs")
    await store._db.fetch("analyze")
    (row,) = await store._db.fetch(f"explain (analyze, timing off, format json) {Q['release_held']}", "default", 200)
    of_runs = [n for n in nodes(json.loads(row[0])[0]["Plan"]) if n.get("Relation Name") == "runs"]
    read = sum(n["Actual Rows"] * n["Actual Loops"] + n.get("Rows Removed by Filter", 0) for n in of_runs)
    assert read <= 20, read
    await apply_task(store, "gone3")
    assert await store.promote(600) == 600
    assert await store.promote(600) == 400


async def test_the_order_of_a_run_is_reckoned_without_a_call(store: PostgresStore) -> None:
    rows = await store._db.fetch("explain (verbose) select order_at(ready_at, priority) from runs")
    assert "order_at(" not in str(rows), rows
