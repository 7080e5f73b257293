"""Reads what the checker judges."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import asyncpg

from tests.chaos.checker import Evidence
from tests.chaos.history import entries


async def collect(home: Path, connection: "asyncpg.Connection[asyncpg.Record]") -> Evidence:
    """All of it; the database must be at rest."""
    runs = await _rows(
        connection,
        "select run_id::text, state, reason, attempt, attempts_counted, idempotency_key, result::text"
        " from milepost.runs",
    )
    attempts = await _rows(
        connection, "select run_id::text, attempt, state, reason, counted, infra from milepost.attempts"
    )
    audit = await _rows(
        connection, "select what, run_id::text, attempt, queue, detail::text from chaos.history order by seq"
    )
    for entry in audit:
        entry["detail"] = json.loads(entry["detail"]) if entry["detail"] else {}
    records: dict[str, list[dict[str, Any]]] = defaultdict(list)
    query = "select run_id::text, seq, kind, key, attempt, write_id, value::text from milepost.record_values"
    for row in await _rows(connection, query):
        records[row["run_id"]].append(row)
    pods = await _rows(
        connection, "select pod_id, state, run_id::text, attempt, epoch from milepost.pods where state <> 'closed'"
    )
    return Evidence(list(entries(home)), audit, {run["run_id"]: run for run in runs}, attempts, records, pods)


async def _rows(connection: "asyncpg.Connection[asyncpg.Record]", query: str) -> list[dict[str, Any]]:
    return [dict(row) for row in await connection.fetch(query)]
