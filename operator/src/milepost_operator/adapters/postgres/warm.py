"""Port `Warm`: pods that stay for the next attempt, what they are given, and when they go.

Lock order: the lock of the warm pods, runs, then heads, attempts and pods. What is done for pods without a run locks
them alone.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final

from milepost.wire.pod import NextRequest
from milepost_operator.adapters.postgres.database import Connection, Database, Row, as_uuid, seconds
from milepost_operator.adapters.postgres.endings import lock_runs, warm_policy
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.errors import ForbiddenError, GoneError, MilepostError
from milepost_operator.domain.runs import PodSession
from milepost_operator.domain.warm import (
    OFFER_SECONDS,
    RESTING_SECONDS,
    HandedOver,
    IdlePod,
    lapsed,
    surplus,
)

MISSED_SECONDS: Final = 0.02
_EXPIRED_BATCH: Final = 100

Asking = tuple[PodSession, NextRequest]


class PostgresWarm:
    """Warm pods."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @cached_property
    def _giving(self) -> asyncio.Lock:
        """Held while this process gives out work: two at once would be in each other's way."""
        return asyncio.Lock()

    async def next_work(self, requests: Sequence[Asking]) -> Sequence[bool | MilepostError]:
        rows = await self._rows(requests)
        own = {session.pod_id for session, _ in requests if _owns(session, rows.get(session.pod_id))}
        leaving = {s.pod_id: q.retire[:100] for s, q in requests if q.retire and s.pod_id in own}
        rested = sorted(pod_id for pod_id in own - leaving.keys() if _rests(rows[pod_id]))
        for pod_id, why in leaving.items():
            await self._db.transaction(lambda c, pod=pod_id, why=why: retire(self._db, c, pod, why))  # type: ignore[misc]
        taken: set[str] = set()
        if rested:
            async with self._giving:
                handed, closed = await self._db.transaction(lambda c: self._come_back(c, rested))
            taken = set(handed.pods) & set(rested)
            self._tell_others(handed)
            if closed or len(taken) < len(handed.pods):
                self._db.wake("offer", "launch")
            if handed.missed:
                self._db.wake_in(MISSED_SECONDS, "warm")
        if leaving:
            self._db.wake("launch")
        if leaving or len(taken) < len(rested):
            rows = await self._rows(requests)
        return [session.pod_id in taken or _told(session, rows.get(session.pod_id)) for session, _ in requests]

    async def _rows(self, requests: Sequence[Asking]) -> Mapping[str, Row]:
        ids = [session.pod_id for session, _ in requests]
        return {row["pod_id"]: row for row in await self._db.fetch(Q["warm_rows"], self._db.cluster, ids)}

    async def _come_back(self, connection: Connection, rested: Sequence[str]) -> tuple[HandedOver, bool]:
        """Pods that rested are idle, or at work at once; what is too many goes. True: some did."""
        await connection.execute(Q["lock_warm"], self._db.cluster)
        await connection.execute(Q["rest_to_idle"], self._db.cluster, rested)
        handed = _handed(await connection.fetch(Q["hand_over"], self._db.cluster))
        return handed, await self._close_surplus(connection)

    async def _close_surplus(self, connection: Connection) -> bool:
        """Under `lock_warm`. True: some were too many."""
        gone = surplus(await idle_pods(self._db, connection), self._db.settings.warm_total)
        if gone:
            await connection.execute(Q["close_warm"], self._db.cluster, gone, ["surplus"] * len(gone))
        return bool(gone)

    def _tell_others(self, handed: HandedOver) -> None:
        """Other replicas have pods that wait, too; the launcher has Jobs to delete."""
        if handed.pods:
            self._db.wake_others(*(f"offer={pod_id}" for pod_id in handed.pods))
        if handed.freed:
            self._db.wake("launch")

    async def still_waiting(self, pod_ids: Sequence[str]) -> Sequence[str]:
        rows = await self._db.fetch(Q["still_waiting"], self._db.cluster, list(pod_ids))
        return [row["pod_id"] for row in rows]

    async def hand_over(self, admitted: int = 0) -> HandedOver:
        async def trim(connection: Connection) -> None:
            await connection.execute(Q["lock_warm"], self._db.cluster)
            await self._close_surplus(connection)

        async with self._giving:
            handed = _handed(await self._db.fetch(Q["hand_over"], self._db.cluster))
            if handed.freed:
                await self._db.transaction(trim)
        self._tell_others(handed)
        if len(handed.pods) < admitted:
            self._db.wake("launch")
        return handed

    async def keep_warm(self) -> int:
        cluster = self._db.cluster
        returned = await self._expire_offers()
        pods = await idle_pods(self._db, self._db)
        gone = lapsed(pods)
        left = [pod for pod in pods if pod.pod_id not in gone]
        gone |= dict.fromkeys(surplus(left, self._db.settings.warm_total), "surplus")
        late = await self._db.fetch(Q["overdue_resting"], cluster, seconds(RESTING_SECONDS))
        gone |= {row["pod_id"]: "silent" for row in late}
        closed = await self._db.fetch(Q["close_warm"], cluster, list(gone), list(gone.values())) if gone else []
        if closed or returned:
            self._db.wake("offer", "launch")
        return len(closed) + returned

    async def _expire_offers(self) -> int:
        due = await self._db.fetch(Q["overdue_offers"], self._db.cluster, seconds(OFFER_SECONDS), _EXPIRED_BATCH)
        if not due:
            return 0
        pod_ids = [row["pod_id"] for row in due]

        async def work(connection: Connection) -> int:
            returned = await take_back(self._db, connection, pod_ids, "silent", wait=False)
            await connection.execute(Q["note_begun"], self._db.cluster, pod_ids)
            return returned

        return await self._db.transaction(work)


async def idle_pods(db: Database, where: "Connection | Database", namespace: str | None = None) -> list[IdlePod]:
    """Pods that wait for work, or will (None: in all namespaces)."""
    rows: Sequence[Row] = await where.fetch(Q["idle_pods"], db.cluster, namespace)
    return [
        IdlePod(
            pod_id=row["pod_id"],
            task=(row["namespace"], row["task"]),
            policy=warm_policy(db, row["warm"]),
            runs=row["runs"],
            idle_seconds=row["idle_seconds"],
            age_seconds=row["age_seconds"],
            current=row["current"],
            template=row["template"],
            there=row["there"],
            troubled=row["troubled"],
            spare=row["spare"],
        )
        for row in rows
    ]


async def retire(db: Database, connection: Connection, pod_id: str, why: str) -> None:
    """End a pod that is not at work; what was offered to it is wanted again."""
    await take_back(db, connection, [pod_id], why)
    await connection.execute(Q["close_warm"], db.cluster, [pod_id], [why])


async def take_back(
    db: Database, connection: Connection, pod_ids: Sequence[str], why: str, *, wait: bool = True
) -> int:
    """What was offered to these pods and not begun is wanted again, and they end; how many. Not `wait`: those whose run
    somebody has locked are left as they are.
    """
    rows = await connection.fetch(Q["offered_runs"], db.cluster, list(pod_ids))
    if not rows:
        return 0
    runs, _ = await lock_runs(connection, [as_uuid(row["run_id"]) for row in rows], wait=wait)
    return len(await connection.fetch(Q["take_back"], list(pod_ids), list(runs), why))


def _handed(rows: Sequence[Row]) -> HandedOver:
    """Make it of the answer of `hand_over`."""
    given = [row["pod_id"] for row in rows if row["given"]]
    return HandedOver(given, missed=len(given) < len(rows), freed=any(row["vacated"] for row in rows))


def _owns(session: PodSession, row: Row | None) -> bool:
    return row is not None and row["pod_uid"] == session.pod_uid


def _rests(row: Row) -> bool:
    """Whether the pod has nothing to do, and is not known to wait yet: after an attempt, or before its first."""
    return bool(row["state"] == "resting" or (row["state"] == "bound" and row["free"]))


def _told(session: PodSession, row: Row | None) -> bool | MilepostError:
    """Whether there is work for a pod, or why it is to end."""
    if row is None or row["state"] in {"closing", "closed"}:
        return GoneError(f"pod {session.pod_id} has no more work: it should end")
    if not _owns(session, row):
        return ForbiddenError(f"pod {session.pod_id} is bound to another pod uid")
    return row["state"] not in {"resting", "idle"}
