"""Ports `Signals` and `Wakes`: runs that sleep without a pod, and what wakes them.

A run's waits are resolved and its signals taken only under the lock of its row, so that each happens once, and a run
that sleeps on something that has come is never seen.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from milepost.wire.pod import ResolvedWait, SettleRequest
from milepost_operator.adapters.postgres.database import Connection, Database, as_uuid
from milepost_operator.adapters.postgres.endings import lock_run
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.errors import ConflictError, InvalidInputError, MilepostError, NotFoundError
from milepost_operator.domain.states import TERMINAL
from milepost_operator.domain.suspension import TIMED, moment

MAX_KEPT_SIGNALS: Final = 1000
"""Signals of a run that no wait has taken."""


async def strange_wait(connection: Connection, run_id: UUID, request: SettleRequest) -> MilepostError | None:
    """Why this run can't wait for what its attempt says."""
    children = [UUID(w.name) for w in request.waits if w.kind == "child" and w.name]
    strange = await connection.fetchval(Q["strange_child"], run_id, children) if children else None
    if strange is None:
        return None
    return InvalidInputError("not-a-child", f"run {strange} is not a child of this run", "$.waits")


async def put_waits(connection: Connection, asleep: Mapping[UUID, SettleRequest]) -> set[UUID]:
    """Keep what these locked runs wait for, whose attempts were ended; those that are queued again: a wait is over."""
    waits = [(run_id, wait) for run_id, request in asleep.items() for wait in request.waits]
    await connection.execute(
        Q["put_waits"],
        [run_id for run_id, _ in waits],
        [w.key for _, w in waits],
        ["timer" if w.kind in TIMED else w.kind for _, w in waits],
        [w.name for _, w in waits],
        [UUID(w.name) if w.kind == "child" and w.name else None for _, w in waits],
        [w.seconds for _, w in waits],
        [moment(w) for _, w in waits],
    )
    return await _wake(connection, list(asleep))


async def resolved_waits(connection: Connection, run_ids: Sequence[object]) -> Mapping[object, list[ResolvedWait]]:
    """What the next attempts of these runs have not yet read."""
    found: dict[object, list[ResolvedWait]] = defaultdict(list)
    for r in await connection.fetch(Q["resolved_waits"], run_ids):
        found[r["run_id"]].append(ResolvedWait(r["key"], r["kind"], r["timed_out"], r["resolution"]))
    return found


async def _wake(connection: Connection, run_ids: Sequence[UUID]) -> set[UUID]:
    """Resolve what can be for these locked runs, all at once for the sake of their keys' order; those that were queued
    again.
    """
    await connection.execute(Q["resolve_waits"], run_ids)
    resumed = await connection.fetch(Q["resume"], run_ids)
    await connection.execute(Q["disarm"], run_ids)
    return {as_uuid(row["run_id"]) for row in resumed}


class PostgresSuspension:
    """Signals, wake-ups and the queue's TTL."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def signal_run(self, run_id: UUID, name: str, payload: str, signal_id: str | None = None) -> int:
        async def work(connection: Connection) -> tuple[int, bool]:
            run = await lock_run(connection, run_id)
            if run is None:
                raise NotFoundError(f"no run {run_id}")
            if signal_id is not None:
                sent: int | None = await connection.fetchval(Q["signal_sent"], run_id, signal_id)
                if sent is not None:
                    return sent, False
            if run["state"] in TERMINAL:
                raise ConflictError("run-ended", f"run {run['name']} has ended ({run['state']}): it takes no signals")
            if await connection.fetchval(Q["signals_kept"], run_id) >= MAX_KEPT_SIGNALS:
                message = f"run {run['name']} has {MAX_KEPT_SIGNALS} signals that it has not taken: send more later"
                raise ConflictError("too-many-signals", message)
            seq: int = await connection.fetchval(Q["put_signal"], run_id, name, payload, signal_id)
            return seq, bool(await _wake(connection, [run_id]))

        seq, woken = await self._db.transaction(work)
        if woken:
            self._db.wake("admit", "project")
        return seq

    async def wake_wait(self, run_id: UUID, key: str, resolution: str) -> bool:
        row = await self._db.fetchrow(Q["put_wake"], self._db.cluster, run_id, key, resolution)
        if row is not None:
            self._db.wake("admit")
        return row is not None

    async def wake_runs(self, limit: int) -> int:
        async def work(connection: Connection) -> tuple[int, int]:
            run_ids = [as_uuid(r["run_id"]) for r in await connection.fetch(Q["lock_woken"], self._db.cluster, limit)]
            if not run_ids:
                return 0, 0
            await connection.execute(Q["take_wakes"], run_ids)
            return len(run_ids), len(await _wake(connection, run_ids))

        seen, resumed = await self._db.transaction(work)
        if resumed:
            self._db.wake("admit", "project")
        return seen

    async def expire_queued(self, limit: int) -> int:
        expired, more = 0, True
        while more and not expired:  # those that get a pause's time back are not the end of it
            rows = await self._db.fetch(Q["expire_queued"], self._db.cluster, limit)
            expired, more = sum(row["expired"] for row in rows), len(rows) == limit
        if expired:
            self._db.wake("project")
        return expired
