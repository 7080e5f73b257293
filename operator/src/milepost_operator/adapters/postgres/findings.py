"""Ports `FindingDuty` and `FindingReads`: Tasks whose recent attempts say something, kept in rows.

Lock order: the row of a Task's check and its findings, alone; a queue is paused in a transaction of its own.
"""

from collections.abc import Sequence
from typing import Final

import orjson

from milepost_operator.adapters.postgres.control import Key, sync_pause
from milepost_operator.adapters.postgres.database import Connection, Database, Row, seconds
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain import patterns, sizes
from milepost_operator.domain.findings import Finding, Kind, TaskFinding, Tried
from milepost_operator.domain.patterns import Thresholds
from milepost_operator.manifests.resources import memory_limit
from milepost_operator.obs.logging import get_logger
from milepost_operator.settings import Settings

CHECK_SECONDS: Final = 30.0
"""A Task is looked at so often, at most."""
RUNS: Final = 100
ATTEMPTS: Final = 8
WHO: Final = "milepost"
"""Who pauses a queue for a pattern, as its status shows."""

_log = get_logger(__name__)


class PostgresFindings:
    """Looks, and acts where a queue says so."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def check_tasks(self, limit: int) -> int:
        async def work(connection: Connection) -> int:
            due = await connection.fetch(Q["claim_checks"], self._db.cluster, seconds(CHECK_SECONDS), limit)
            for row in due:
                await _look(self._db, connection, row)
            return len(due)

        checked = await self._db.transaction(work)
        for row in await self._db.fetch(Q["to_remedy"], self._db.cluster, limit):
            await self._db.transaction(lambda c, row=row: _remedy(self._db, c, row))  # type: ignore[misc]
            self._db.wake("launch", "project")
        return checked

    async def task_findings(self) -> Sequence[TaskFinding]:
        return [
            TaskFinding(row["namespace"], row["task"], _finding(row), row["since"])
            for row in await self._db.fetch(Q["all_findings"], self._db.cluster)
        ]


async def _look(db: Database, connection: Connection, due: Row) -> None:
    """Look at one Task, whose check is ours."""
    key = (db.cluster, due["namespace"], due["task"])
    task = await connection.fetchrow(Q["checked_task"], *key)
    if task is None:
        await connection.execute(Q["drop_checks"], *key)
        return
    tried = [Tried(**row) for row in await connection.fetch(Q["tried"], *key, RUNS, ATTEMPTS)]
    before = {Kind(row["kind"]): _finding(row) for row in await connection.fetch(Q["findings_of"], *key)}
    found = patterns.find(tried, before, _thresholds(db.settings), due["now"])
    defaults = db.settings.task_requests, db.settings.task_limits
    limit = memory_limit(orjson.loads(task["resources"] or "{}"), *defaults, 0)
    proposal = sizes.propose(tried, task["version"], limit, before.get(Kind.MEMORY_PROPOSAL))
    if proposal is not None:
        found[Kind.MEMORY_PROPOSAL] = proposal
    fresh = [finding for kind, finding in found.items() if finding != before.get(kind)]
    if not fresh:
        return
    columns = zip(*((f.kind, f.holds, f.reason, f.message, f.value) for f in fresh), strict=True)
    await connection.execute(Q["put_findings"], *key, *(list(column) for column in columns))
    for one in fresh:
        _log.info("finding", namespace=key[1], task=key[2], kind=one.kind, holds=one.holds)


async def _remedy(db: Database, connection: Connection, row: Row) -> None:
    """Pause the queue of a Task for what was found, once; a queue that is paused already stays as it is."""
    key: Key = (db.cluster, row["namespace"], row["queue"])
    queue = await connection.fetchrow(Q["lock_queue_to_change"], *key)
    if queue is None or not await connection.fetch(Q["remedied"], *key[:2], row["task"], row["kind"]):
        return
    if queue["paused_by"] is not None or queue["spec_paused"]:
        return
    reason = f"{row['kind']} of task {row['task']}: {row['message']}"
    await connection.execute(Q["pause_queue"], *key, WHO, reason)
    await sync_pause(db, connection, key)
    _log.warning("queue_paused", namespace=key[1], queue=key[2], task=row["task"], kind=row["kind"])


def _finding(row: Row) -> Finding:
    return Finding(Kind(row["kind"]), row["holds"], row["reason"], row["message"], row["value"])


def _thresholds(settings: Settings) -> Thresholds:
    return Thresholds(
        window_seconds=settings.pattern_window_seconds,
        timeouts=settings.pattern_timeouts,
        retries=settings.pattern_retries,
        gap_seconds=settings.pattern_gap_seconds,
        growth=settings.pattern_growth,
        pulls=settings.pattern_pulls,
    )
