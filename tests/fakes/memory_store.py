"""The store's ports in memory, as far as the api needs them: held to Postgres by tests/contract/test_store_contract.py.

`down` makes every call raise UnavailableError; `commits` counts commits; `hold` (an event) delays them.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

import orjson

from milepost.wire.delta import MAX_DEPTH, loaded, spliced
from milepost.wire.pod import (
    Fence,
    HeartbeatAnswer,
    HeartbeatRequest,
    Record,
    RecordKind,
    RecordsRequest,
    SettleRequest,
    Start,
    StreamRequest,
)
from milepost_operator.api.views import summary
from milepost_operator.domain.errors import (
    ConflictError,
    ForbiddenError,
    GoneError,
    MilepostError,
    NotFoundError,
    RunLimitError,
    TooLargeError,
    UnavailableError,
)
from milepost_operator.domain.ids import run_name, uuid7
from milepost_operator.domain.inputs import input_hash
from milepost_operator.domain.lifecycle import Page, Position, RunFilter
from milepost_operator.domain.queues import Override, QueueView
from milepost_operator.domain.runs import AttemptView, Chunk, Created, Ending, NewRun, PodSession, Retry, RunView
from milepost_operator.domain.settlement import RunFacts, decide, ending_of
from milepost_operator.domain.states import TERMINAL, Reason, RunState
from milepost_operator.domain.suspension import suspended
from milepost_operator.domain.why import Pause, Why

T = TypeVar("T")
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class FakePod:
    """A pods row with its reserved attempt; `closed` once that has ended."""

    pod_id: str
    namespace: str
    run_id: UUID
    attempt: int
    token: int
    pod_uid: str | None = None
    closed: bool = False
    settled: bool = False
    state: str = "reserved"
    reason: str | None = None
    counted: bool = False

    def end(self, ending: Ending, *, settled: bool) -> None:
        self.state, self.reason, self.counted = "ended", ending.reason, ending.counted
        self.closed, self.settled = True, settled


@dataclass
class FakeRun:
    view: RunView
    token: int = 0
    records: list[Record] = field(default_factory=list)
    write_ids: dict[str, int] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    chunk_ids: dict[str, int] = field(default_factory=dict)
    cancelled: bool = False
    signals: list[tuple[str, str, str | None]] = field(default_factory=list)


class MemoryStore:
    def __init__(self) -> None:
        self.runs: dict[UUID, FakeRun] = {}
        self.pods: dict[str, FakePod] = {}
        self.keys: dict[tuple[str, str, str], UUID] = {}
        self.beats: list[HeartbeatRequest] = []
        self.settles: list[SettleRequest] = []
        self.queues: dict[tuple[str, str], QueueView] = {}
        self.bumped: list[UUID] = []
        self.max_run_records = 20_000
        self.down = False
        self.max_stream_bytes = 16_777_216
        self.commits = 0
        self.hold: asyncio.Event | None = None
        self._numbers = itertools.count(1)

    async def _commit(self) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.down:
            raise UnavailableError("Postgres can't be reached", 2.0)
        self.commits += 1

    # intake and reads

    async def create_run(self, run: NewRun) -> Created:
        await self._commit()
        key = (run.namespace, run.task, run.idempotency_key or "")
        if run.idempotency_key and key in self.keys:
            known = self.runs[self.keys[key]].view
            if input_hash(known.input) != input_hash(run.input):
                raise ConflictError("idempotency-mismatch", "another input under the same key")
            return Created(known.run_id, known.name, known.state, duplicate=True)
        number = next(self._numbers)
        run_id = uuid7(1_767_225_600_000 + number, number.to_bytes(10, "big"))
        name = run.name or run_name(run.task, number.to_bytes(5, "big"))
        if any(r.view.namespace == run.namespace and r.view.name == name for r in self.runs.values()):
            raise ConflictError("name-taken", f"there is a run {name}")
        self.runs[run_id] = FakeRun(_view(run, run_id, name, EPOCH + timedelta(seconds=number)))
        if run.idempotency_key:
            self.keys[key] = run_id
        return Created(run_id, name, RunState.QUEUED, duplicate=False)

    async def create_runs(self, runs: Sequence[NewRun], **_: bool) -> Sequence[Created | MilepostError]:
        made: list[Created | MilepostError] = []
        for run in runs:
            try:
                made.append(await self.create_run(run))
            except ConflictError as error:
                made.append(error)
        return made

    async def ended(self, run_ids: Sequence[UUID]) -> Sequence[UUID]:
        await self._commit()
        return [i for i in run_ids if i not in self.runs or self.runs[i].view.state in TERMINAL]

    async def cancel_run(self, run_id: UUID, who: str) -> None:
        await self._commit()
        run = self._run(run_id)
        if run.view.state in TERMINAL or run.cancelled:
            return
        run.cancelled = True
        state = RunState.CANCELLING if run.view.state is RunState.RUNNING else RunState.CANCELLED
        if run.view.state is RunState.ADMITTED:
            self.pods[run.view.pod_id or ""].end(Ending(Reason.CANCELLED, "", counted=False), settled=False)
        run.view = replace(run.view, state=state, message=f"cancelled by {who}")

    async def signal_run(self, run_id: UUID, name: str, payload: str, signal_id: str | None = None) -> int:
        await self._commit()
        run = self._run(run_id)
        for seq, (_, _, known) in enumerate(run.signals, 1):
            if known is not None and known == signal_id:
                return seq
        if run.view.state in TERMINAL:
            raise ConflictError("run-ended", "the run has ended")
        run.signals.append((name, payload, signal_id))
        return len(run.signals)

    def _run(self, run_id: UUID) -> FakeRun:
        if run_id not in self.runs:
            raise NotFoundError(f"no run {run_id}")
        return self.runs[run_id]

    async def get_run(self, namespace: str, run: str) -> RunView:
        await self._commit()
        for one in self.runs.values():
            if one.view.namespace == namespace and run in {one.view.name, str(one.view.run_id)}:
                return one.view
        raise NotFoundError(f"there is no run {run!r} in namespace {namespace!r}")

    async def get_attempts(self, run_id: UUID) -> Sequence[AttemptView]:
        await self._commit()
        return [
            AttemptView(p.attempt, "first", p.state, p.reason, None, p.counted, p.pod_id, 0, EPOCH, None, {})
            for p in self.pods.values()
            if p.run_id == run_id
        ]

    async def page(self, namespace: str | None, asked: RunFilter, before: Position | None, limit: int) -> Page:
        await self._commit()
        views = sorted((r.view for r in self.runs.values()), key=lambda v: (v.created_at, v.run_id), reverse=True)
        found = [
            v
            for v in views
            if (namespace is None or v.namespace == namespace)
            and (asked.task is None or v.task == asked.task)
            and (asked.queue is None or v.queue == asked.queue)
            and (not asked.states or v.state in asked.states)
            and (asked.tag is None or asked.tag in v.tags)
            and (before is None or (v.created_at, v.run_id) < (before.at, before.run_id))
        ]
        following = Position(found[limit - 1].created_at, found[limit - 1].run_id) if len(found) > limit else None
        return Page(orjson.dumps([summary(v) for v in found[:limit]]).decode(), following)

    async def ready(self) -> None:
        await self._commit()

    # queues: only what the api passes on is of interest

    def _queue(self, namespace: str, name: str) -> QueueView:
        if (namespace, name) not in self.queues:
            raise NotFoundError(f"no Queue {name} in namespace {namespace}")
        return self.queues[namespace, name]

    async def get_queue(self, namespace: str, name: str) -> QueueView:
        await self._commit()
        return self._queue(namespace, name)

    async def list_queues(self, namespace: str | None) -> Sequence[QueueView]:
        await self._commit()
        return [view for (of, _), view in sorted(self.queues.items()) if namespace in {None, of}]

    async def pause_queue(self, namespace: str, name: str, who: str, reason: str = "") -> int:
        await self._commit()
        self.queues[namespace, name] = replace(self._queue(namespace, name), pause=Pause(EPOCH, who, reason))
        return 0

    async def resume_queue(self, namespace: str, name: str) -> None:
        await self._commit()
        pause = self._queue(namespace, name).pause
        if pause is not None and pause.by is None:
            raise ConflictError("paused-by-manifest", f"queue {name} is paused by its manifest")
        self.queues[namespace, name] = replace(self._queue(namespace, name), pause=None)

    async def change_queue(self, namespace: str, name: str, who: str, concurrency: int | None) -> None:
        await self._commit()
        view = self._queue(namespace, name)
        override = None if concurrency is None else Override(concurrency, who, EPOCH)
        self.queues[namespace, name] = replace(view, override=override, limit=concurrency or view.spec_limit)

    async def bump_run(self, run_id: UUID) -> None:
        await self._commit()
        run = self.runs[run_id].view
        if run.state is not RunState.QUEUED:
            raise ConflictError("not-waiting", f"run {run.name} is {run.state}")
        self.bumped.append(run_id)

    async def why(self, run_id: UUID) -> Why | None:
        await self._commit()
        run = self.runs[run_id].view
        return None if run.state in TERMINAL else Why("Delayed", f"waits as {run.state}", EPOCH)

    # pods

    def launch(self, run_id: UUID, pod_id: str) -> FakePod:
        """What admission and the operator would do: a pod with the next attempt; older ones are fenced."""
        run = self.runs[run_id]
        for older in self.pods.values():
            if older.run_id == run_id and older.state != "ended":
                older.end(Ending(Reason.POD_LOST, "", counted=False), settled=False)
        run.token += 1
        run.view = replace(run.view, attempt=run.view.attempt + 1, state=RunState.ADMITTED, pod_id=pod_id)
        pod = self.pods[pod_id] = FakePod(pod_id, run.view.namespace, run_id, run.view.attempt, run.token)
        return pod

    async def open_session(self, pod_id: str, namespace: str, pod_uid: str, pod_name: str) -> PodSession:
        await self._commit()
        pod = self.pods.get(pod_id)
        if pod is None:
            raise NotFoundError(f"no pod {pod_id}")
        if pod.namespace != namespace or not pod_name.startswith(f"mp-{pod_id}-"):
            raise ForbiddenError("the token is of another pod")
        if pod.closed:
            raise GoneError("the pod's row is closed")
        if pod.pod_uid not in {None, pod_uid}:
            raise ForbiddenError("bound to another pod uid")
        pod.pod_uid = pod_uid
        return PodSession(pod_id, namespace, pod_uid)

    async def start(
        self,
        sessions: Sequence[PodSession],
        *,
        wait: bool = True,  # noqa: ARG002  nothing is ever locked here
    ) -> Sequence[Start | MilepostError]:
        await self._commit()
        return [_answer(lambda s=session: self._start(s)) for session in sessions]  # type: ignore[misc]

    def _start(self, session: PodSession) -> Start:
        pod = self.pods[session.pod_id]
        if pod.closed:
            raise GoneError("the pod's row is closed")
        run = self.runs[pod.run_id]
        if pod.state == "reserved":
            pod.state = "running"
            run.view = replace(run.view, state=RunState.RUNNING)
        view = run.view
        last = run.records[-1] if run.records else None
        return Start(
            run_id=str(view.run_id),
            run_name=view.name,
            namespace=view.namespace,
            task=view.task,
            version=1,
            attempt=pod.attempt,
            token=pod.token,
            cause="first",
            input=view.input,
            tags=list(view.tags),
            entrypoint="a:b",
            command=None,
            source=None,
            max_attempts=3,
            attempt_seconds=3600,
            lease_seconds=10.0,
            beat_seconds=3.0,
            max_record_bytes=1_048_576,
            max_result_bytes=1_048_576,
            grace_seconds=30,
            on_partition="continue",
            records=len(run.records),
            last_seq=last.seq if last else 0,
            last_key=last.key if last else None,
            created_at=view.created_at.isoformat(),
        )

    async def check_fence(self, session: PodSession, fence: Fence) -> None:
        await self._commit()
        error = self._fence_error(session, fence)
        if error:
            raise error

    async def records(self, fence: Fence, after: int, *, newest: bool = False) -> AsyncIterator[Record]:
        kept = self.runs[UUID(fence.run_id)].records
        last = {record.key: record.seq for record in kept if record.kind == "checkpoint"}
        for record in kept:
            if record.seq > after and (record.kind == "step" or not newest or last[record.key] == record.seq):
                yield record

    async def newest(self, fence: Fence, kind: RecordKind, key: str) -> Record | None:
        found = [r for r in self.runs[UUID(fence.run_id)].records if (r.kind, r.key) == (kind, key)]
        return found[-1] if found else None

    async def append(
        self,
        requests: Sequence[tuple[PodSession, RecordsRequest]],
    ) -> Sequence[list[int] | MilepostError]:
        await self._commit()
        return [self._append(session, request) for session, request in requests]

    async def append_chunks(
        self, requests: Sequence[tuple[PodSession, StreamRequest]]
    ) -> Sequence[list[int] | MilepostError]:
        await self._commit()
        return [self._fence_error(session, q.fence) or self._tell(q) for session, q in requests]

    def _tell(self, request: StreamRequest) -> list[int] | MilepostError:
        run = self.runs[UUID(request.fence.run_id)]
        positions = []
        for chunk in request.chunks:
            if chunk.write_id not in run.chunk_ids:
                size = sum(len(one.value.encode()) for one in run.chunks) + len(chunk.value.encode())
                if size > self.max_stream_bytes:
                    return TooLargeError("stream-full", "the stream is full")
                position = len(run.chunks) + 1
                run.chunks.append(Chunk(position, request.fence.attempt, chunk.value, EPOCH))
                run.chunk_ids[chunk.write_id] = position
            positions.append(run.chunk_ids[chunk.write_id])
        return positions

    async def chunks(self, run_id: UUID, after: int, limit: int) -> Sequence[Chunk]:
        await self._commit()
        return self.runs[run_id].chunks[after : after + limit]

    async def told(self, asked: Sequence[tuple[UUID, int]]) -> Sequence[tuple[UUID, int]]:
        await self._commit()
        over = set(await self.ended([run_id for run_id, _ in asked]))
        return [(i, after) for i, after in asked if i in over or len(self.runs[i].chunks) > after]

    async def beat(
        self,
        requests: Sequence[tuple[PodSession, HeartbeatRequest]],
    ) -> Sequence[HeartbeatAnswer | MilepostError]:
        await self._commit()
        answers: list[HeartbeatAnswer | MilepostError] = []
        for session, request in requests:
            error = self._fence_error(session, request.fence)
            if error is None:
                self.beats.append(request)
                cancelling = self.runs[UUID(request.fence.run_id)].view.state is RunState.CANCELLING
                answers.append(HeartbeatAnswer("cancel", 30) if cancelling else HeartbeatAnswer("continue"))
            else:
                answers.append(error)
        return answers

    async def settle(
        self,
        requests: Sequence[tuple[PodSession, SettleRequest]],
        *,
        wait: bool = True,  # noqa: ARG002  nothing is ever locked here
    ) -> Sequence[str | MilepostError]:
        await self._commit()
        return [_answer(lambda s=session, r=request: self._settle(s, r)) for session, request in requests]  # type: ignore[misc]

    def _settle(self, session: PodSession, request: SettleRequest) -> str:
        pod = self.pods[session.pod_id]
        run = self.runs[UUID(request.fence.run_id)]
        fence = request.fence
        same = (str(pod.run_id), pod.attempt, pod.token) == (fence.run_id, fence.attempt, fence.token)
        if pod.settled and same:
            return run.view.state
        error = self._fence_error(session, request.fence)
        if error:
            raise error
        self.settles.append(request)
        ending = suspended(request) if request.outcome == "suspended" else ending_of(request)
        progressed = any(r.attempt == pod.attempt for r in run.records)
        facts = RunFacts(run.cancelled, run.view.attempts_counted, 0, progressed, Retry(), infra_budget=5)
        following = decide(facts, ending, 0.0)
        pod.end(ending, settled=True)
        run.view = replace(
            run.view,
            state=following.state,
            reason=following.reason,
            attempts_counted=following.attempts_counted,
            dead_lettered=following.dead_lettered,
            result=request.result if following.state is RunState.SUCCEEDED else None,
        )
        return following.state

    def _fence_error(self, session: PodSession, fence: Fence) -> MilepostError | None:
        pod, run = self.pods.get(session.pod_id), self.runs.get(UUID(fence.run_id))
        if pod is None or run is None or pod.run_id != run.view.run_id or pod.attempt != fence.attempt:
            return ForbiddenError("this attempt is not of this pod")
        if pod.settled:
            return ConflictError("settled", "the attempt is settled")
        if run.token != fence.token or pod.token != fence.token or pod.state == "ended":
            return ConflictError("fenced", "a newer attempt may write")
        return None

    def _append(self, session: PodSession, request: RecordsRequest) -> list[int] | MilepostError:
        error = self._fence_error(session, request.fence)
        if error:
            return error
        run = self.runs[UUID(request.fence.run_id)]
        attempt = request.fence.attempt
        seqs: list[int] = []
        for write in request.records:
            if write.write_id in run.write_ids:
                seqs.append(run.write_ids[write.write_id])
                continue
            if write.kind == "step" and any((r.kind, r.key) == ("step", write.key) for r in run.records):
                return ConflictError("step-exists", f"step {write.key!r} is recorded already")
            base = next((r for r in run.records if r.seq == write.base), None)
            if write.delta is not None and (base is None or base.depth == MAX_DEPTH):
                return ConflictError("unknown-base", "send it whole")
            value, depth = write.value, 0
            if write.delta is not None and base is not None:
                value, depth = spliced(base.value, loaded(write.delta)), base.depth + 1
            seq = len(run.records) + 1
            if seq > self.max_run_records:
                raise RunLimitError("records.maxCount", self.max_run_records, write.key, "too many records")
            record = Record(
                seq, write.kind, write.key, value, write.types, write.fingerprint, attempt, write.failed, depth
            )
            run.records.append(record)
            run.write_ids[write.write_id] = seq
            run.view = replace(run.view, last_seq=seq, last_key=write.key)
            seqs.append(seq)
        return seqs


def _view(run: NewRun, run_id: UUID, name: str, created_at: datetime) -> RunView:
    return RunView(
        run_id=run_id,
        namespace=run.namespace,
        name=name,
        task=run.task,
        queue="default",
        state=RunState.QUEUED,
        reason=None,
        message=None,
        rev=1,
        attempt=0,
        attempts_counted=0,
        max_attempts=3,
        version=1,
        origin=run.origin,
        intent_uid=run.intent_uid,
        tags=run.tags,
        idempotency_key=run.idempotency_key,
        pod_id=None,
        pod_name=None,
        last_seq=0,
        last_key=None,
        resumed_after=None,
        progress=None,
        progress_message=None,
        input=run.input,
        result=None,
        error=None,
        dead_lettered=False,
        created_at=created_at,
        ready_at=created_at,
        admitted_at=None,
        started_at=None,
        finished_at=None,
    )


def _answer(work: Callable[[], T]) -> T | MilepostError:
    try:
        return work()
    except MilepostError as error:
        return error
