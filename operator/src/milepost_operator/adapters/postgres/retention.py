"""Ports `Pruning` and `History`: what is left of ended runs goes when its time is over.

Batches of a few hundred runs, each in a transaction of its own, found by index and claimed by row locks.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from milepost_operator.adapters.postgres.database import Connection, Database, Row, as_uuid
from milepost_operator.adapters.postgres.queries import Q

MAX_RECORDS: Final = 5_000
"""Records that one transaction deletes, about: the run that goes beyond it is the last one."""
MAX_TASKS: Final = 20
"""Tasks that one turn looks after."""


class PostgresRetention:
    """Rows, records and Run objects of ended runs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def prune(self, limit: int) -> bool:
        keep = self._db.settings
        due = await self._db.fetch(
            Q["prunable"],
            self._db.cluster,
            float(keep.retention_success_seconds),
            float(keep.retention_failure_seconds),
            float(keep.retention_records_success_seconds),
            float(keep.retention_records_failure_seconds),
            MAX_TASKS,
        )
        pruned = 0
        for row in due:
            if row["what"] == "records":
                pruned += await self._db.transaction(lambda c, row=row: self._prune_records(c, row, limit))  # type: ignore[misc]
            else:
                key = (self._db.cluster, row["namespace"], row["task"], row["succeeded"])
                pruned += len(await self._db.fetch(Q["delete_runs"], *key, row["before"], MAX_RECORDS, limit))
        return pruned > 0

    async def surplus_crs(self, limit: int) -> Sequence[tuple[UUID, str, str, str]]:
        keep = self._db.settings
        rows = await self._db.fetch(
            Q["surplus_crs"], self._db.cluster, keep.retention_successful_runs, keep.retention_failed_runs, limit
        )
        return [(as_uuid(r["run_id"]), r["namespace"], r["name"], r["cr_uid"]) for r in rows]

    async def cr_deleted(self, run_ids: Sequence[UUID]) -> None:
        await self._db.fetch(Q["cr_deleted"], list(run_ids))

    async def _prune_records(self, connection: Connection, group: Row, limit: int) -> int:
        key = (self._db.cluster, group["namespace"], group["task"], group["succeeded"])
        await connection.execute(Q["begin_mark"], *key)
        mark = await connection.fetchrow(Q["lock_mark"], *key)
        if mark is None:
            return 0
        runs = await connection.fetch(
            Q["runs_past_records"], *key, group["before"], mark["upto"], mark["upto_run"], MAX_RECORDS, limit
        )
        if not runs:
            return 0
        await connection.execute(Q["delete_records"], [r["run_id"] for r in runs])
        await connection.execute(Q["move_mark"], *key, runs[-1]["finished_at"], runs[-1]["run_id"])
        return len(runs)
