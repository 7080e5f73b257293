"""The claim stays an index scan however long the backlog: EXPLAIN on 10,000 waiting and as many finished runs."""

import json
from typing import Any

import pytest

from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.store import PostgresStore
from tests.integration.engine import NS, apply_task

BACKLOG = """
insert into runs (run_id, cluster, namespace, name, task, queue, state, input, input_hash, origin, finished_at)
select gen_random_uuid(), 'default', $1, 'r' || n, 'index', 'default',
       case when n % 2 = 0 then 'queued' else 'succeeded' end,
       '{}', '', 'api', case when n % 2 = 1 then now() end
from generate_series(1, 20000) n
"""


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *[n for child in plan.get("Plans", []) for n in nodes(child)]]


@pytest.mark.parametrize(
    ("query", "args", "index"),
    [
        ("queues_with_work", ["default"], "runs_claim"),
        ("count_slots", ["default", NS, "default"], "runs_slots"),
        ("admit", ["default", NS, "default", 10], "runs_claim"),
    ],
)
async def test_the_claim_uses_its_index(store: PostgresStore, query: str, args: list[object], index: str) -> None:
    await apply_task(store)
    await store._db.fetch(BACKLOG, NS)
    await store._db.fetch("insert into run_heads (run_id) select run_id from runs")
    await store._db.fetch(
        "insert into run_events (run_id, seq, reason, message, terminal)"
        " select run_id, 1, 'x', '', true from runs where finished_at is not null",
    )
    await store._db.fetch("analyze")
    (row,) = await store._db.fetch(f"explain (format json) {Q[query]}", *args)
    found = nodes(json.loads(row[0])[0]["Plan"])
    assert index in {n.get("Index Name") for n in found}
    whole = [n for n in found if n["Node Type"] == "Seq Scan" and n.get("Relation Name") == "runs"]
    assert whole == []
