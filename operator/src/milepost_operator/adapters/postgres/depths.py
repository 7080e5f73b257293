"""Whether a queue has room for a new run: its depth as of a moment ago, less what this process has added since.

A count for each trigger would cost as much as the backlog is long. Other replicas' runs of the last second are not
seen, so that a queue may get that many above its maxDepth; a full queue is looked at again at once, not after a second.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Container, Sequence
from contextlib import asynccontextmanager
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
_UNKNOWN: Final[tuple[float, "_Key | None"]] = (0.0, None)


@dataclass(slots=True)
class _Room:
    """What is left of a queue's maxDepth, as of `at` (None: not looked yet), with what this process does meanwhile.

    `pending`: runs on their way into the queue; `inserted`: those that arrived, ever.
    """

    limit: int = 0
    left: int = 0
    at: float | None = None
    took: float = 0.0
    pending: int = 0
    inserted: int = 0


class Depths:
    """One for each process. `clock`: monotonic seconds."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._clock = clock
        self._looking = asyncio.Lock()
        self._tasks: dict[_Key, tuple[float, _Key | None]] = {}
        self._rooms: dict[_Key, _Room] = {}

    @asynccontextmanager
    async def room(
        self, runs: Sequence[NewRun], without: Container[int] = ()
    ) -> AsyncIterator[dict[int, QueueFullError]]:
        """Hold room for root runs while they are inserted; by index those for which there is none. `without`: indexes
        of runs that take none.
        """
        roots = {(run.namespace, run.task) for run in runs if run.origin in ROOTS}
        if any(self._is_stale(key) for key in roots):
            async with self._looking:
                await self._look(sorted(key for key in roots if self._is_stale(key)))
        taken: list[_Room] = []
        errors: dict[int, QueueFullError] = {}
        for index, run in enumerate(runs):
            if index in without:
                continue
            _, queue = self._tasks.get((run.namespace, run.task), _UNKNOWN) if run.origin in ROOTS else _UNKNOWN
            if queue is None:
                continue
            room = self._rooms[queue]
            if room.left > 0:
                room.left -= 1
                room.pending += 1
                taken.append(room)
            else:
                errors[index] = _full(queue, room)
        try:
            yield errors
        finally:
            for room in taken:
                room.pending -= 1
                room.inserted += 1

    async def _look(self, stale: Sequence[_Key]) -> None:
        if not stale:
            return  # another call has looked meanwhile
        if len(self._tasks) > MAX_KNOWN:
            self._tasks.clear()
        before = {queue: room.inserted for queue, room in self._rooms.items()}
        began = self._clock()
        columns = [key[0] for key in stale], [key[1] for key in stale]
        rows = await self._db.fetch(Q["queue_depths"], self._db.cluster, *columns)
        now = self._clock()
        for row in rows:
            queue = None
            if row["max_depth"] is not None:
                queue = (row["namespace"], row["queue"])
                room = self._rooms.setdefault(queue, _Room())
                # Whatever the count may not have seen counts once more, until the next look.
                unseen = room.pending + room.inserted - before.get(queue, 0)
                room.limit, room.left = row["max_depth"], row["max_depth"] - row["depth"] - unseen
                room.at, room.took = now, now - began
            self._tasks[row["namespace"], row["task"]] = (now, queue)

    def _is_stale(self, key: _Key) -> bool:
        known = self._tasks.get(key)
        if known is None:
            return True
        now = self._clock()
        at, queue = known
        room = self._rooms[queue] if queue is not None else None
        if room is not None and room.at is not None and room.left <= 0:
            return now - room.at > min(FRESH_SECONDS, max(FULL_SECONDS, room.took * PROBE_SHARE))
        return now - at > FRESH_SECONDS


def _full(queue: _Key, room: _Room) -> QueueFullError:
    return QueueFullError(
        f"queue {queue[1]} of namespace {queue[0]} has {room.limit} runs waiting, its maxDepth:"
        " come again when some have begun",
        RETRY_AFTER_SECONDS,
    )
