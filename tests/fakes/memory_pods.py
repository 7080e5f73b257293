"""Ports `PodStore` and `Streams` in memory."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

from milepost.wire.delta import MAX_DEPTH, loaded, spliced
from milepost.wire.pod import (
    Code,
    Fence,
    HeartbeatAnswer,
    HeartbeatRequest,
    NextRequest,
    Record,
    RecordKind,
    RecordsRequest,
    SettleRequest,
    Start,
    StreamRequest,
)
from milepost_operator.domain.errors import (
    ConflictError,
    ForbiddenError,
    GoneError,
    MilepostError,
    NotFoundError,
    RunLimitError,
    TooLargeError,
)
from milepost_operator.domain.runs import Chunk, Ending, PodSession, Retry
from milepost_operator.domain.settlement import RunFacts, decide, ending_of
from milepost_operator.domain.states import Reason, RunState
from milepost_operator.domain.suspension import suspended
from tests.fakes.memory_rows import EPOCH, FakePod, MemoryRows

T = TypeVar("T")


class MemoryPods(MemoryRows):
    """Sessions, starts, records, streams, heartbeats and settles."""

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

    def offer(self, run_id: UUID, pod_id: str) -> FakePod:
        """What a hand-over would do: the next attempt is for an idle pod."""
        before = self.pods[pod_id]
        assert before.slot == "idle", before
        self.past.append(before)
        pod = self.launch(run_id, pod_id)
        pod.pod_uid, pod.reusable, pod.runs, pod.slot = before.pod_uid, before.reusable, before.runs, "offered"
        return pod

    async def next_work(self, requests: Sequence[tuple[PodSession, NextRequest]]) -> Sequence[bool | MilepostError]:
        await self._commit()
        return [_answer(lambda s=session, r=request: self._next(s, r)) for session, request in requests]  # type: ignore[misc]

    def _next(self, session: PodSession, request: NextRequest) -> bool:
        pod = self.pods[session.pod_id]
        if request.retire and pod.slot in {"resting", "idle"}:
            pod.closed, pod.slot = True, None
        if pod.closed:
            raise GoneError("the pod's row is closed")
        if pod.slot == "resting":
            pod.slot = "idle"
        return pod.slot != "idle"

    async def code_of(self, session: PodSession) -> Code:
        await self._commit()
        if self.pods[session.pod_id].closed:
            raise GoneError("the pod's row is closed")
        return Code(1, "index:main", None)

    async def tell_left(self, session: PodSession, left: Sequence[str]) -> None:
        await self._commit()
        self.left.setdefault(session.pod_id, list(left))

    async def still_waiting(self, pod_ids: Sequence[str]) -> Sequence[str]:
        await self._commit()
        return [i for i in pod_ids if i in self.pods and self.pods[i].slot in {"resting", "idle"}]

    async def open_session(
        self, pod_id: str, namespace: str, pod_uid: str, pod_name: str, *, reusable: bool = False
    ) -> PodSession:
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
        pod.pod_uid, pod.reusable = pod_uid, reusable
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
        if pod.slot in {"resting", "idle"}:
            raise GoneError("the pod has no attempt now")
        run = self.runs[pod.run_id]
        pod.slot = None
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
        run = self.runs[UUID(request.fence.run_id)]
        fence = request.fence
        pod = self._attempt(session, fence) or self.pods[session.pod_id]
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

    def _attempt(self, session: PodSession, fence: Fence) -> FakePod | None:
        """The attempt of this fence, if the pod has or had it."""
        wanted = (session.pod_id, UUID(fence.run_id), fence.attempt)
        every = (*self.pods.values(), *self.past)
        return next((p for p in every if (p.pod_id, p.run_id, p.attempt) == wanted), None)

    def _fence_error(self, session: PodSession, fence: Fence) -> MilepostError | None:
        pod, run = self._attempt(session, fence), self.runs.get(UUID(fence.run_id))
        if pod is None or run is None:
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


def _answer(work: Callable[[], T]) -> T | MilepostError:
    try:
        return work()
    except MilepostError as error:
        return error
