"""The store in memory, as far as the api needs it: tests/contract/test_store_contract.py holds it to Postgres."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

import orjson

from milepost_operator.api.views import summary
from milepost_operator.domain.errors import (
    ConflictError,
    MilepostError,
    NotFoundError,
)
from milepost_operator.domain.ids import run_name, uuid7
from milepost_operator.domain.inputs import input_hash
from milepost_operator.domain.lifecycle import Page, Position, RunFilter
from milepost_operator.domain.queues import Override, QueueView
from milepost_operator.domain.runs import AttemptView, Created, Ending, NewRun, RunView
from milepost_operator.domain.states import TERMINAL, Reason, RunState
from milepost_operator.domain.why import Pause, Why
from tests.fakes.memory_objects import MemoryObjects
from tests.fakes.memory_rows import EPOCH, FakeRun


class MemoryStore(MemoryObjects):
    """With intake, reads and queues."""

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
            for p in (*self.past, *self.pods.values())
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
