"""Port `Admission`: runs that wait get their slot, within every limit. The SQL function `admit` (0003) decides."""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from milepost_operator.adapters.postgres.breaker import judge
from milepost_operator.adapters.postgres.database import Connection, Database, Row
from milepost_operator.adapters.postgres.queries import Q

TOGETHER: Final = 4
"""Queues served at a time: their commits share the wait for the disk."""
MAX_BATCH: Final = 200
MIN_AGAIN_SECONDS: Final = 0.005
MAX_AGAIN_SECONDS: Final = 60.0

_SWEEP_SECONDS: Final = 0.08
_FIND_SECONDS: Final = 1.0
_FIND_SHARE: Final = 20
_FORGET_SECONDS: Final = 60.0
_FORGET_BATCH: Final = 1000


@dataclass(slots=True)
class _Upkeep:
    """When what was done last or is due next (monotonic seconds)."""

    swept: float = 0.0
    find_at: float = 0.0
    forget_at: float = 0.0
    global_set: bool = False


class PostgresAdmission:
    """Claims every queue that has work; replicas pass over a queue that another one serves."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._upkeep = _Upkeep()

    async def admit(self, limit: int) -> int:
        """Admit up to `limit` runs of each queue; returns how many in all."""
        if not self._upkeep.global_set:
            await self._db.fetch(Q["set_global_limit"], self._db.cluster, self._db.settings.global_concurrency or None)
            self._upkeep.global_set = True
        total = await self._admit_all(limit)
        if await self._keep_up():
            total += await self._admit_all(limit)
        if total:
            self._db.wake("project")
        return total

    async def _admit_all(self, limit: int) -> int:
        now = time.monotonic()
        sweep = now - self._upkeep.swept >= _SWEEP_SECONDS
        if sweep:
            self._upkeep.swept = now
        queues = await self._db.fetch(Q["queues_with_work"], self._db.cluster, sweep)
        gate = asyncio.Semaphore(TOGETHER)

        async def one(namespace: str, name: str, *, guarded: bool) -> int:
            async with gate:
                claim = self._admit_guarded if guarded else self.admit_queue
                return await claim(namespace, name, limit)

        return sum(await asyncio.gather(*(one(q["namespace"], q["name"], guarded=q["guarded"]) for q in queues)))

    async def admit_queue(self, namespace: str, name: str, limit: int) -> int:
        """One claim of one queue; 0 too while another replica serves it."""
        row = await self._db.fetchrow(Q["admit"], self._db.cluster, namespace, name, min(limit, MAX_BATCH))
        return self._admitted(row)

    async def _admit_guarded(self, namespace: str, name: str, limit: int) -> int:
        """One claim of a queue that has a circuit breaker: judged under the same lock."""
        key = (self._db.cluster, namespace, name)

        async def work(connection: Connection) -> Row | None:
            room = (await judge(connection, key)).room
            if room == 0:
                return None
            return await connection.fetchrow(Q["admit"], *key, min(limit, MAX_BATCH, room or MAX_BATCH))

        row = await self._db.transaction(work)
        return 0 if row is None else self._admitted(row)

    def _admitted(self, row: Row | None) -> int:
        if row is None:
            raise AssertionError("a function with out parameters returns a row")
        if row["again_in"] is not None:
            self._db.wake_in(min(max(row["again_in"], MIN_AGAIN_SECONDS), MAX_AGAIN_SECONDS), "admit")
        return int(row["admitted"])

    async def _keep_up(self) -> bool:
        """Keys that waiting runs were not told of, and keys that nothing uses. True: some runs can be admitted so."""
        upkeep, now, found = self._upkeep, time.monotonic(), False
        if now >= upkeep.find_at:
            found = bool(await self._db.fetch(Q["find_waiting"], self._db.cluster))
            # It costs a probe for each key: at most a 20th of the time goes to it.
            upkeep.find_at = now + max(_FIND_SECONDS, (time.monotonic() - now) * _FIND_SHARE)
        if now >= upkeep.forget_at:
            await self._db.fetch(Q["forget_keys"], self._db.cluster, _FORGET_BATCH)
            upkeep.forget_at = now + _FORGET_SECONDS
        return found
