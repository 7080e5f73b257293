"""Ports `PrewarmDuty`, `PrewarmPods` and `TaskReads`: pods made before there is a run for them.

The duty decides under the lock of the warm pods, from rows alone: what one replica has made, the next one counts.
"""

from collections.abc import Sequence
from typing import Final, cast

import orjson

from milepost.wire.pod import Code
from milepost_operator.adapters.postgres.database import Connection, Database, Row, seconds, to_json
from milepost_operator.adapters.postgres.endings import warm_policy
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.errors import ForbiddenError, GoneError
from milepost_operator.domain.prewarm import (
    LEAD_MAX,
    LONGER_SECONDS,
    RECENT_SECONDS,
    ROOM_SECONDS,
    HeldBack,
    Plan,
    Pool,
    plan,
)
from milepost_operator.domain.prewarm_views import TaskFacts
from milepost_operator.domain.pulls import PullState
from milepost_operator.domain.runs import PodSession

_TASKS: Final = 5000


class PostgresPrewarm:
    """Pods that are there before their runs."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def prewarm(self) -> int:
        await self._db.fetch(Q["forget_ahead"], self._db.cluster)
        ended = await self._db.fetch(Q["overdue_ahead"], self._db.cluster)
        plans = await self._plans(self._db)
        await self._note(self._db, plans)
        unmade = await self._db.fetch(Q["unmake_ahead"], self._db.cluster)
        made = await self._db.transaction(self._make) if any(one.make for one in plans) else 0
        if made or ended or unmade:
            self._db.wake("launch")
        return made

    async def _make(self, connection: Connection) -> int:
        """What lacks, counted anew: nobody else makes any meanwhile."""
        await connection.execute(Q["lock_warm"], self._db.cluster)
        making = [one for one in await self._plans(connection) if one.make]
        columns = ([p.task[0] for p in making], [p.task[1] for p in making], [p.make for p in making])
        return len(await connection.fetch(Q["make_ahead"], self._db.cluster, *columns))

    async def _plans(self, where: "Connection | Database") -> list[Plan]:
        settings = self._db.settings
        rows: Sequence[Row] = await where.fetch(
            Q["prewarm_facts"],
            self._db.cluster,
            seconds(LEAD_MAX),
            seconds(RECENT_SECONDS),
            seconds(LONGER_SECONDS),
            _TASKS,
            settings.warm_min > 0,
        )
        yielded: Sequence[Row] = await where.fetch(Q["yielded_ago"], self._db.cluster, seconds(ROOM_SECONDS))
        return plan([self._pool(row) for row in rows], settings.warm_total, yielded[0]["ago"])

    def _pool(self, row: Row) -> Pool:
        return Pool(
            task=(row["namespace"], row["task"]),
            policy=warm_policy(self._db, row["warm"]),
            keeps=row["keeps"],
            paused=row["paused"],
            most=row["most"],
            idle=row["idle"],
            coming=row["coming"],
            busy=row["busy"],
            recent=row["recent"],
            longer=row["longer"],
            silence=row["silence"],
            run_seconds=row["run_seconds"],
            cold_seconds=row["cold_seconds"],
            slots=row["slots"],
            failures=row["failures"],
            failed_ago=row["failed_ago"],
            trouble=row["trouble"],
        )

    async def _note(self, where: Database, plans: Sequence[Plan]) -> None:
        told = [one for one in plans if one.keep or one.held_back]
        nothing = [one.task for one in plans if not (one.keep or one.held_back)]
        columns = list(zip(*(_noted(one) for one in told), strict=True)) or [()] * 7
        await where.fetch(Q["note_prewarms"], self._db.cluster, *(list(column) for column in columns))
        await where.fetch(
            Q["forget_prewarms"], self._db.cluster, [task[0] for task in nothing], [task[1] for task in nothing]
        )

    async def code_of(self, session: PodSession) -> Code:
        row = await self._db.fetchrow(Q["code_of"], self._db.cluster, session.pod_id)
        if row is None or row["state"] in {"closing", "closed"}:
            raise GoneError(f"pod {session.pod_id} has no more work: it should end")
        if row["pod_uid"] != session.pod_uid:
            raise ForbiddenError(f"pod {session.pod_id} is bound to another pod uid")
        shape = orjson.loads(row["shape"])
        return Code(row["version"], shape.get("entrypoint"), (shape.get("source") or {}).get("inline"))

    async def tell_left(self, session: PodSession, left: Sequence[str]) -> None:
        told = to_json(list(left))
        await self._db.fetch(Q["note_left"], self._db.cluster, session.pod_id, session.pod_uid, told)

    async def task_facts(self) -> Sequence[TaskFacts]:
        rows = await self._db.fetch(Q["task_facts"], self._db.cluster)
        return [
            TaskFacts(
                namespace=row["namespace"],
                task=row["task"],
                version=row["version"],
                left=orjson.loads(row["not_fork_safe"] or "[]"),
                least=warm_policy(self._db, row["warm"]).min,
                target=row["target"],
                cause=row["cause"],
                held_back=cast("HeldBack | None", row["held_back"]),
                message=row["message"] or "",
                pull=cast("PullState | None", row["pull"]),
                pull_reason=row["pull_reason"] or "",
                pull_message=row["pull_message"] or "",
                nodes=row["pull_nodes"] or 0,
            )
            for row in rows
        ]


def _noted(one: Plan) -> tuple[object, ...]:
    return (*one.task, one.target, one.keep, one.cause, one.held_back, one.message or None)
