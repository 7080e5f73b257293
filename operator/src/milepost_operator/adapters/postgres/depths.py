"""Whether a queue has room for a new run: its depth as of a moment ago, less what this process has added since.

A count for each trigger would cost as much as the backlog is long. Other replicas' runs of the last second are not
seen, so that a queue may get that many above its maxDepth; a full queue is looked at again at once, not after a second.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from milepost_operator.adapters.postgres.database import Database
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.errors import QueueFullError
from milepost_operator.domain.runs import NewRun
from milepost_operator.domain.triggers import ROOTS

FRESH_SECONDS: Final = 1.0
FULL_SECONDS: Final = 0.05
RETRY_AFTER_SECONDS: Final = 2.0
PROBE_SHARE: Final = 20
"""A probe is repeated after so many times of what it took, so that a deep queue costs 5 % of a connection at most."""
MAX_KNOWN: Final = 10_000

_Key = tuple[str, str]


@dataclass(slots=True)
class _Room:
    """What is left of a queue's maxDepth, as of `at`."""

    queue: str
    limit: int
    left: int
    at: float
    took: float


class Depths:
    """One for each process. `clock`: monotonic seconds."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._tasks: dict[_Key, tuple[float, _Key | None]] = {}
        self._rooms: dict[_Key, _Room] = {}

    async def refused(self, runs: Sequence[NewRun]) -> dict[int, QueueFullError]:
        """Take room for each root run; by index those for which there is none."""
        await self._look(run for run in runs if run.origin in ROOTS)
        errors: dict[int, QueueFullError] = {}
        for index, run in enumerate(runs):
            queue = self._tasks[run.namespace, run.task][1] if run.origin in ROOTS else None
            if queue is None:
                continue
            room = self._rooms[queue]
            if room.left > 0:
                room.left -= 1
                continue
            errors[index] = QueueFullError(
                f"queue {room.queue} of namespace {run.namespace} has {room.limit} runs waiting, its maxDepth:"
                " come again when some have begun",
                RETRY_AFTER_SECONDS,
            )
        return errors

    async def _look(self, runs: Iterable[NewRun]) -> None:
        now = self._clock()
        stale = sorted({(run.namespace, run.task) for run in runs if self._is_stale((run.namespace, run.task), now)})
        if not stale:
            return
        if len(self._tasks) > MAX_KNOWN:
            self._tasks.clear()
            self._rooms.clear()
        namespaces, tasks = [key[0] for key in stale], [key[1] for key in stale]
        rows = await self._db.fetch(Q["queue_depths"], self._db.cluster, namespaces, tasks)
        took = self._clock() - now
        for row in rows:
            queue = None
            if row["max_depth"] is not None:
                queue = (row["namespace"], row["queue"])
                self._rooms[queue] = _Room(row["queue"], row["max_depth"], row["max_depth"] - row["depth"], now, took)
            self._tasks[row["namespace"], row["task"]] = (now, queue)

    def _is_stale(self, key: _Key, now: float) -> bool:
        known = self._tasks.get(key)
        if known is None:
            return True
        at, queue = known
        room = self._rooms[queue] if queue is not None else None
        if room is not None and room.left <= 0:
            return now - room.at > max(FULL_SECONDS, room.took * PROBE_SHARE)
        return now - at > FRESH_SECONDS
