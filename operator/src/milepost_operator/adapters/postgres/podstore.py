"""Port `PodStore`: what sidecars do, fenced in the statement that writes."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final
from uuid import UUID

import asyncpg

from milepost.wire.pod import (
    Fence,
    HeartbeatAnswer,
    HeartbeatRequest,
    Record,
    RecordKind,
    RecordsRequest,
    RecordWrite,
    SettleRequest,
    Start,
)
from milepost_operator.adapters.postgres.database import Database, Row, seconds
from milepost_operator.adapters.postgres.fences import columns, explain_fence, fenced
from milepost_operator.adapters.postgres.leftout import kept_bytes, why_left_out
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.settles import settle_attempts
from milepost_operator.adapters.postgres.starts import begin_attempts, start_attempts
from milepost_operator.adapters.postgres.values import Values
from milepost_operator.domain.errors import (
    ForbiddenError,
    GoneError,
    MilepostError,
    NotFoundError,
)
from milepost_operator.domain.runs import PodSession
from milepost_operator.domain.states import RunState
from milepost_operator.manifests.names import is_pod_of

PAGE_RECORDS: Final = 2000
PAGE_BYTES: Final = 1024 * 1024
"""Of values; the last of a page goes beyond it."""


class PostgresPodStore:
    """Sessions, starts, records, heartbeats and settles."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def open_session(
        self, pod_id: str, namespace: str, pod_uid: str, pod_name: str, *, reusable: bool = False
    ) -> PodSession:
        row = await self._db.fetchrow(Q["pod_row"], self._db.cluster, pod_id)
        if row is None:
            raise NotFoundError(f"no pod {pod_id}: it is not one of ours")
        if row["namespace"] != namespace or not is_pod_of(pod_name, pod_id):
            raise ForbiddenError(f"the token is of pod {namespace}/{pod_name}, not of pod {pod_id}")
        if row["state"] in {"closing", "closed"}:
            raise GoneError(f"pod {pod_id} has no more work: it should end")
        if not await self._db.fetchrow(Q["bind_pod"], self._db.cluster, pod_id, pod_uid, pod_name, reusable):
            row = await self._db.fetchrow(Q["pod_row"], self._db.cluster, pod_id)
            if row is None or row["state"] in {"closing", "closed"}:
                raise GoneError(f"pod {pod_id} has no more work: it should end")
            raise ForbiddenError(f"pod {pod_id} is bound to another pod uid")
        return PodSession(pod_id, namespace, pod_uid)

    async def start(self, sessions: Sequence[PodSession], *, wait: bool = True) -> Sequence[Start | MilepostError]:
        first = await begin_attempts(self._db, sessions)
        answers: dict[str, Start | MilepostError] = {pod_id: start for pod_id, (start, _) in first.items()}
        begun = [cold_reason for _, cold_reason in first.values()]
        left = [session for session in sessions if session.pod_id not in first]
        if left:
            started, others = await self._db.transaction(lambda c: start_attempts(self._db, c, left, wait=wait))
            answers |= {session.pod_id: answer for session, answer in zip(left, started, strict=True)}
            begun += others
        self._db.wake("project")
        for cold_reason in begun:
            self._db.on_start(cold_reason)
        return [answers[session.pod_id] for session in sessions]

    def tell_starts(self, on_start: Callable[[str | None], object]) -> None:
        """Have each attempt that begins told, once it is committed: why it needed a new pod, None if it did not."""
        self._db.on_start = on_start

    async def check_fence(self, session: PodSession, fence: Fence) -> None:
        error = await explain_fence(self._db, session, fence)
        if error:
            raise error

    async def records(self, fence: Fence, after: int, *, newest: bool = False) -> AsyncIterator[Record]:
        values = Values(self._db, UUID(fence.run_id))
        more = True
        while more:
            rows = await self._db.fetch(Q["records_page"], UUID(fence.run_id), after, newest, PAGE_RECORDS, PAGE_BYTES)
            for row in rows:
                yield await values.record(row)
            more = len(rows) == PAGE_RECORDS or sum(row["bytes"] for row in rows) >= PAGE_BYTES
            if more:
                after = rows[-1]["seq"]

    async def newest(self, fence: Fence, kind: RecordKind, key: str) -> Record | None:
        query = Q["newest_checkpoint"] if kind == "checkpoint" else Q["step_record"]
        run_id = UUID(fence.run_id)
        row = await self._db.fetchrow(query, run_id, key)
        return await Values(self._db, run_id).record(row) if row else None

    async def append(
        self, requests: Sequence[tuple[PodSession, RecordsRequest]]
    ) -> Sequence[list[int] | MilepostError]:
        flat = [(i, s, q.fence, w) for i, (s, q) in enumerate(requests) for w in q.records]
        if len(flat) == 1 and (seq := await self._append_one(*flat[0][1:])) is not None:
            return [[seq]]
        rows = await self._db.lane.fetch(
            Q["append"],
            *columns([(session, fence) for _, session, fence, _ in flat]),
            [w.write_id for *_, w in flat],
            [w.kind for *_, w in flat],
            [w.key for *_, w in flat],
            [w.value if w.delta is None else None for *_, w in flat],
            [w.types for *_, w in flat],
            [w.fingerprint for *_, w in flat],
            [_size(w) for *_, w in flat],
            list(range(len(flat))),
            [w.failed for *_, w in flat],
            [w.delta for *_, w in flat],
            [w.base for *_, w in flat],
            [kept_bytes(w) for *_, w in flat],
        )
        answers: list[list[int] | MilepostError] = [[] for _ in requests]
        for row in sorted(rows, key=lambda r: int(r["ord"])):
            index, session, fence, write = flat[row["ord"]]
            answer = answers[index]
            if isinstance(answer, MilepostError):
                continue
            found = await self._outcome(row, session, fence, write)
            if isinstance(found, MilepostError):
                answers[index] = found
            else:
                answer.append(found)
        return answers

    async def _append_one(self, session: PodSession, fence: Fence, write: RecordWrite) -> int | None:
        try:
            rows = await self._db.lane.fetch(
                Q["append_one"],
                UUID(fence.run_id),
                fence.attempt,
                fence.token,
                session.pod_id,
                write.write_id,
                write.kind,
                write.key,
                write.value if write.delta is None else None,
                write.types,
                write.fingerprint,
                _size(write),
                write.failed,
                write.delta,
                write.base,
                kept_bytes(write),
            )
        except asyncpg.UniqueViolationError:  # somebody wrote it while we waited for the head
            return None
        return int(rows[0]["seq"]) if rows else None

    async def beat(
        self, requests: Sequence[tuple[PodSession, HeartbeatRequest]]
    ) -> Sequence[HeartbeatAnswer | MilepostError]:
        rows = await self._db.fetch(
            Q["beat"],
            *columns([(session, request.fence) for session, request in requests]),
            [q.progress for _, q in requests],
            [q.progress_message for _, q in requests],
            list(range(len(requests))),
            seconds(self._db.settings.lease_seconds),
        )
        by_ord = {int(row["ord"]): row for row in rows}
        answers: list[HeartbeatAnswer | MilepostError] = []
        for ord_, (session, request) in enumerate(requests):
            row = by_ord.get(ord_)
            if row is None:
                answers.append(await explain_fence(self._db, session, request.fence) or fenced(request.fence))
            elif row["state"] == RunState.CANCELLING:
                answers.append(HeartbeatAnswer("cancel", row["grace"]))
            else:
                answers.append(HeartbeatAnswer("continue"))
        return answers

    async def settle(
        self, requests: Sequence[tuple[PodSession, SettleRequest]], *, wait: bool = True
    ) -> Sequence[str | MilepostError]:
        states = await self._db.transaction(lambda c: settle_attempts(self._db, c, requests, wait=wait))
        self._db.wake_others("admit")
        self._db.wake("launch", "project")
        return states

    async def _outcome(self, row: Row, session: PodSession, fence: Fence, write: RecordWrite) -> int | MilepostError:
        if row["seq"] is not None:
            return int(row["seq"])
        if not row["held"]:
            return await explain_fence(self._db, session, fence) or fenced(fence)
        run_id = UUID(fence.run_id)
        known = await self._db.fetchrow(Q["record_by_write"], run_id, write.write_id, write.key, write.kind)
        return int(known["seq"]) if known else await why_left_out(self._db, run_id, write)


def _size(write: RecordWrite) -> int:
    """Bytes of the value."""
    return kept_bytes(write) if write.size is None else write.size
