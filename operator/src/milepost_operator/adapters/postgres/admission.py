"""Port `Admission`: runs that wait get their slot, within every limit. The SQL function `admit` decides (migrations)."""

import asyncio
import time
from typing import Final

from milepost_operator.adapters.postgres.database import Database
from milepost_operator.adapters.postgres.queries import Q

TOGETHER: Final = 4
"""Queues served at a time: their commits share the disk's wait."""
MAX_BATCH: Final = 200
SWEEP_SECONDS: Final = 0.08
FIND_SECONDS: Final = 1.0
FIND_SHARE: Final = 20
"""The search for keys that were not told of takes at most one part in so many of the time."""
FORGET_SECONDS: Final = 60.0
FORGET_BATCH: Final = 1000


class PostgresAdmission:
    """Claims every queue that has work; replicas pass over a queue that another one serves."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._global_set = False
        self._swept = 0.0
        self._find_at = 0.0
        self._forget_at = 0.0
        self._again: asyncio.TimerHandle | None = None

    async def admit(self, limit: int) -> int:
        """Admit up to `limit` runs of each queue; returns how many in all."""
        await self._housekeeping()
        now = time.monotonic()
        sweep = now - self._swept >= SWEEP_SECONDS
        if sweep:
            self._swept = now
        queues = await self._db.fetch(Q["queues_with_work"], self._db.cluster, sweep)
        gate = asyncio.Semaphore(TOGETHER)

        async def one(namespace: str, name: str) -> int:
            async with gate:
                return await self.admit_queue(namespace, name, limit)

        total = sum(await asyncio.gather(*(one(q["namespace"], q["name"]) for q in queues)))
        if total:
            self._db.wake("launch", "project")
        return total

    async def admit_queue(self, namespace: str, name: str, limit: int) -> int:
        """One claim of one queue."""
        row = await self._db.fetchrow(Q["admit"], self._db.cluster, namespace, name, min(limit, MAX_BATCH))
        if row is None:
            return 0
        if row["again_in"] is not None:
            self._wake_in(row["again_in"])
        return int(row["admitted"])

    def _wake_in(self, seconds: float) -> None:
        """A turn at the time that a claim named, unless one is due before."""
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.005, min(seconds, 60.0))
        if self._again is not None and not self._again.cancelled() and loop.time() < self._again.when() <= at:
            return
        if self._again is not None:
            self._again.cancel()
        self._again = loop.call_at(at, self._db.wake, "admit")

    async def _housekeeping(self) -> None:
        now = time.monotonic()
        if not self._global_set:
            await self._db.fetch(Q["set_global_limit"], self._db.cluster, self._db.settings.global_concurrency)
            self._global_set = True
        if now >= self._find_at:
            await self._db.fetch(Q["find_waiting"], self._db.cluster)
            took = time.monotonic() - now
            self._find_at = now + max(FIND_SECONDS, took * FIND_SHARE)
        if now >= self._forget_at:
            await self._db.fetch(Q["forget_keys"], self._db.cluster, FORGET_BATCH)
            self._forget_at = now + FORGET_SECONDS
