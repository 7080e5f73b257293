"""Port `PodStore`: what sidecars do, fenced in the statement that writes."""

from collections.abc import AsyncIterator, Sequence
from typing import cast
from uuid import UUID

import asyncpg
import orjson

from milepost.wire.pod import (
    Cause,
    Fence,
    HeartbeatAnswer,
    HeartbeatRequest,
    OnChange,
    Record,
    RecordKind,
    RecordsRequest,
    RecordWrite,
    ResolvedWait,
    SettleRequest,
    Start,
)
from milepost_operator.adapters.postgres.database import Connection, Database, Row, seconds
from milepost_operator.adapters.postgres.endings import add_event, end_attempt, lock_run, retry_of
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.suspension import resolved_waits, suspend
from milepost_operator.domain.errors import ConflictError, ForbiddenError, GoneError, MilepostError, NotFoundError
from milepost_operator.domain.runs import PodSession, Timeouts
from milepost_operator.domain.settlement import ending_of
from milepost_operator.domain.states import RunState
from milepost_operator.manifests.names import is_pod_of


class PostgresPodStore:
    """Sessions, starts, records, heartbeats and settles."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def open_session(self, pod_id: str, namespace: str, pod_uid: str, pod_name: str) -> PodSession:
        row = await self._db.fetchrow(Q["pod_row"], self._db.cluster, pod_id)
        if row is None:
            raise NotFoundError(f"no pod {pod_id}: it is not one of ours")
        if row["namespace"] != namespace or not is_pod_of(pod_name, pod_id):
            raise ForbiddenError(f"the token is of pod {namespace}/{pod_name}, not of pod {pod_id}")
        if row["state"] in {"closing", "closed"}:
            raise GoneError(f"pod {pod_id} has no more work: it should end")
        if not await self._db.fetchrow(Q["bind_pod"], self._db.cluster, pod_id, pod_uid, pod_name):
            row = await self._db.fetchrow(Q["pod_row"], self._db.cluster, pod_id)
            if row is None or row["state"] in {"closing", "closed"}:
                raise GoneError(f"pod {pod_id} has no more work: it should end")
            raise ForbiddenError(f"pod {pod_id} is bound to another pod uid")
        return PodSession(pod_id, namespace, pod_uid)

    async def start(self, session: PodSession) -> Start:
        async def work(connection: Connection) -> Start:
            pod = await self._own_pod(connection, session)
            run = await lock_run(connection, pod["run_id"])
            if run is None or run["attempt"] != pod["attempt"]:
                raise GoneError(f"the attempt of pod {session.pod_id} is over")
            facts = await connection.fetchrow(Q["start_facts"], run["run_id"])
            if facts["attempt_state"] == "ended":
                raise GoneError(f"attempt {pod['attempt']} of run {run['name']} has ended")
            timeouts = Timeouts(**orjson.loads(run["timeouts"]))
            head = await connection.fetchrow(Q["start_head"], run["run_id"], seconds(self._db.settings.lease_seconds))
            begun = await connection.fetchval(
                Q["start_attempt"], run["run_id"], pod["attempt"], timeouts.attempt_seconds, head["last_seq"]
            )
            if begun:
                await connection.execute(Q["start_run"], run["run_id"], float(timeouts.run_seconds))
                await self._tell_start(connection, facts, head)
            waits = await resolved_waits(connection, run["run_id"]) if pod["attempt"] > 1 else []
            return self._start(facts, head, timeouts, waits)

        started = await self._db.transaction(work)
        self._db.wake("project")
        return started

    async def check_fence(self, session: PodSession, fence: Fence) -> None:
        error = await self._explain(session, fence)
        if error:
            raise error

    async def records(self, fence: Fence, after: int) -> AsyncIterator[Record]:
        while True:
            rows = await self._db.fetch(Q["records_page"], UUID(fence.run_id), after)
            for row in rows:
                yield _record(row)
            if not rows:
                return
            after = rows[-1]["seq"]

    async def newest(self, fence: Fence, kind: RecordKind, key: str) -> Record | None:
        query = Q["newest_checkpoint"] if kind == "checkpoint" else Q["step_record"]
        row = await self._db.fetchrow(query, UUID(fence.run_id), key)
        return _record(row) if row else None

    async def append(
        self, requests: Sequence[tuple[PodSession, RecordsRequest]]
    ) -> Sequence[list[int] | MilepostError]:
        flat = [(i, s, q.fence, w) for i, (s, q) in enumerate(requests) for w in q.records]
        if len(flat) == 1 and (seq := await self._append_one(*flat[0][1:])) is not None:
            return [[seq]]
        rows = await self._db.lane.fetch(
            Q["append"],
            [UUID(f.run_id) for _, _, f, _ in flat],
            [f.attempt for _, _, f, _ in flat],
            [f.token for _, _, f, _ in flat],
            [s.pod_id for _, s, _, _ in flat],
            [w.write_id for *_, w in flat],
            [w.kind for *_, w in flat],
            [w.key for *_, w in flat],
            [w.value for *_, w in flat],
            [w.types for *_, w in flat],
            [w.fingerprint for *_, w in flat],
            [_size(w) for *_, w in flat],
            list(range(len(flat))),
            [w.failed for *_, w in flat],
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
                write.value,
                write.types,
                write.fingerprint,
                _size(write),
                write.failed,
            )
        except asyncpg.UniqueViolationError:  # somebody wrote it while we waited for the head
            return None
        return int(rows[0]["seq"]) if rows else None

    async def beat(
        self, requests: Sequence[tuple[PodSession, HeartbeatRequest]]
    ) -> Sequence[HeartbeatAnswer | MilepostError]:
        rows = await self._db.fetch(
            Q["beat"],
            [UUID(q.fence.run_id) for _, q in requests],
            [q.fence.attempt for _, q in requests],
            [q.fence.token for _, q in requests],
            [s.pod_id for s, _ in requests],
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
                answers.append(await self._explain(session, request.fence) or _fenced(request.fence))
            elif row["state"] == RunState.CANCELLING:
                answers.append(HeartbeatAnswer("cancel", row["grace"]))
            else:
                answers.append(HeartbeatAnswer("continue"))
        return answers

    async def settle(self, session: PodSession, request: SettleRequest) -> str:
        fence = request.fence

        async def work(connection: Connection) -> str:
            run = await lock_run(connection, UUID(fence.run_id))
            attempt = run and await connection.fetchrow(Q["attempt_for_ending"], run["run_id"], fence.attempt)
            if run is None or not attempt or attempt["pod_id"] != session.pod_id:
                raise ForbiddenError(f"attempt {fence.attempt} of run {fence.run_id} is not of this pod")
            if attempt["state"] == "ended":
                if attempt["settled"] and attempt["token"] == fence.token:
                    return str(run["state"])
                raise _fenced(fence)
            if attempt["token"] != fence.token or attempt["state"] != "running":
                raise _fenced(fence)
            if request.outcome == "suspended":
                return await suspend(self._db, connection, run, attempt, request)
            following = await end_attempt(
                self._db, connection, run, attempt, ending_of(request), settled=True, result=request.result
            )
            return following.state

        state = await self._db.transaction(work)
        self._db.wake("admit", "launch", "project")
        return state

    async def _own_pod(self, connection: Connection, session: PodSession) -> Row:
        pod = await connection.fetchrow(Q["pod_row"], self._db.cluster, session.pod_id)
        if pod is None or pod["state"] in {"closing", "closed"}:
            raise GoneError(f"pod {session.pod_id} has no more work: it should end")
        if pod["pod_uid"] != session.pod_uid or pod["run_id"] is None:
            raise ForbiddenError(f"pod {session.pod_id} is bound to another pod uid")
        return pod

    async def _tell_start(self, connection: Connection, facts: Row, head: Row) -> None:
        number = facts["attempt"]
        if head["last_seq"]:
            reason = "AttemptResumed"
            message = f"attempt {number} resumed after checkpoint {head['records']} ({head['last_key']})"
        else:
            reason, message = "AttemptStarted", f"attempt {number} started"
        await add_event(connection, facts["run_id"], reason, message)

    def _start(self, facts: Row, head: Row, timeouts: Timeouts, waits: list[ResolvedWait]) -> Start:
        settings = self._db.settings
        shape = orjson.loads(facts["shape"])
        command = [*shape.get("command", ()), *shape.get("args", ())]
        return Start(
            run_id=str(facts["run_id"]),
            run_name=facts["name"],
            namespace=facts["namespace"],
            task=facts["task"],
            version=facts["version"],
            attempt=facts["attempt"],
            token=facts["token"],
            cause=cast("Cause", facts["cause"]),
            input=facts["input"],
            tags=list(facts["tags"]),
            entrypoint=shape.get("entrypoint"),
            command=command or None,
            source=(shape.get("source") or {}).get("inline"),
            max_attempts=retry_of(facts["retry"]).max_attempts,
            attempt_seconds=timeouts.attempt_seconds,
            lease_seconds=settings.lease_seconds,
            beat_seconds=settings.beat_seconds,
            max_record_bytes=settings.max_record_bytes,
            max_result_bytes=settings.max_result_bytes,
            grace_seconds=settings.grace_seconds,
            on_partition="continue",
            records=head["records"],
            last_seq=head["last_seq"],
            last_key=head["last_key"],
            created_at=facts["created_at"].isoformat(),
            waits=waits,
            on_change=cast("OnChange", facts["on_change"]),
            origin=facts["origin"],
            key_run=str(facts["key_run"] or facts["run_id"]),
        )

    async def _outcome(self, row: Row, session: PodSession, fence: Fence, write: RecordWrite) -> int | MilepostError:
        if row["seq"] is not None:
            return int(row["seq"])
        if not row["held"]:
            return await self._explain(session, fence) or _fenced(fence)
        known = await self._db.fetchrow(Q["record_by_write"], UUID(fence.run_id), write.write_id)
        if known:
            return int(known["seq"])
        return ConflictError("step-exists", f"step {write.key!r} is recorded already: the first write wins")

    async def _explain(self, session: PodSession, fence: Fence) -> MilepostError | None:
        row = await self._db.fetchrow(Q["explain_fence"], UUID(fence.run_id), fence.attempt, fence.token)
        if row is None or row["pod_id"] != session.pod_id:
            return ForbiddenError(f"attempt {fence.attempt} of run {fence.run_id} is not of this pod")
        if row["settled"]:
            return ConflictError("settled", f"attempt {fence.attempt} is settled: nothing more can be written")
        return None if row["current"] else _fenced(fence)


def _fenced(fence: Fence) -> ConflictError:
    return ConflictError("fenced", f"attempt {fence.attempt} of run {fence.run_id} may no longer write")


def _size(write: RecordWrite) -> int:
    return len(write.value) if write.value.isascii() else len(write.value.encode())


def _record(row: Row) -> Record:
    return Record(
        row["seq"],
        row["kind"],
        row["key"],
        row["value"],
        row["types"],
        row["fingerprint"],
        row["attempt"],
        row["failed"],
    )
