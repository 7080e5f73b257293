"""A run in memory, attempt by attempt."""

import asyncio
import json
from collections import Counter
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any, Final, Literal

from milepost.errors import MilepostError
from milepost.sdk.failed import rebuild
from milepost.sdk.journal import LAYOUT
from milepost.sdk.task import TaskFunction
from milepost.sidecar.settle import Settlement
from milepost.testing.attempts import Attempt, Process, World
from milepost.testing.going import Going
from milepost.testing.memory import MemorySidecar, Rows, StoredRecord
from milepost.testing.points import Point
from milepost.values import pack, read
from milepost.wire.pod import Start
from milepost.wire.values import JSON

State = Literal["queued", "backoff", "succeeded", "failed", "cancelled"]
ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})
MOST_ATTEMPTS: Final = 1000
MEGABYTE: Final = 1024 * 1024


class _Run:
    def __init__(
        self,
        task: TaskFunction[..., Any],
        input: object = None,  # noqa: A002  (the word of the API)
        *,
        max_attempts: int = 3,
        tags: tuple[str, ...] = (),
        now: datetime | None = None,
        seed: int = 0,
        max_bytes: int = MEGABYTE,
        max_object_bytes: int = 0,
        max_records: int = 0,
        max_records_bytes: int = 0,
    ) -> None:
        """Make a run that has not begun.

        Args:
            task: a function with `@task`. Set the attribute to another one to change the code between two attempts.
            input: what the run is given; it is encoded as JSON, as a trigger does.
            max_attempts: failures after which the run has failed; deaths of the process don't count.
            tags: of the run.
            now: the time that `ctx.now()` gives, until `advance`. Default: the time of the test.
            seed: of `ctx.random()` and `ctx.uuid()`.
            max_bytes: of a record or result.
            max_object_bytes: of one that goes to object storage since it is above that; 0: the cluster has none.
            max_records: of the whole run, as `spec.records.maxCount` of its Task; 0: no limit.
            max_records_bytes: of all its records, as `spec.records.maxBytes`; 0: no limit.
        """
        self.task = task
        self.state: State = "queued"
        self.attempts: list[Attempt] = []
        self.executions: Counter[str] = Counter()
        self._input = pack(input).text
        self._max_attempts, self._max_bytes, self._tags = max_attempts, max_bytes, list(tags)
        self._max_object_bytes = max_object_bytes
        self._world = World(now or datetime.now(UTC), Random(seed))  # noqa: S311  (no secret)
        self._created_at = self._world.now.isoformat()
        self._rows = Rows(max_records, max_records_bytes)

    @property
    def result(self) -> JSON:
        """What the task returned, as JSON; None while it has not succeeded."""
        return self.attempts[-1].result if self.attempts else None

    @property
    def records(self) -> list[StoredRecord]:
        """Every record, in the order of the commits."""
        return list(self._rows.records)

    @property
    def steps(self) -> dict[str, object]:
        """Recorded values of steps by key, in the order of the commits, of the types they had."""
        return {one.key: _value(one) for one in self._kept("step") if not one.write.failed}

    @property
    def failures(self) -> dict[str, Exception]:
        """Recorded errors of steps by key: those that the task caught and went on from."""
        return {one.key: rebuild(json.loads(one.write.value)) for one in self._kept("step") if one.write.failed}

    @property
    def checkpoints(self) -> dict[str, list[object]]:
        """Every version of each checkpoint, oldest first."""
        found: dict[str, list[object]] = {}
        for one in self._kept("checkpoint"):
            if one.key.startswith(LAYOUT):
                continue
            found.setdefault(one.key, []).append(_value(one))
        return found

    @property
    def streamed(self) -> list[JSON]:
        """What `ctx.stream` told, of all attempts, oldest first."""
        return [json.loads(one.value) for one in self._rows.chunks]

    @property
    def now(self) -> datetime:
        """The time of the run's world."""
        return self._world.now

    def advance(self, by: timedelta) -> None:
        """Let time go by for `ctx.now()`."""
        self._world.now += by

    def _kept(self, kind: str) -> list[StoredRecord]:
        return [one for one in self._rows.records if one.write.kind == kind]

    def _begin(self, crash: Point | None, cancel: Point | None) -> "Going":
        if self.state in ENDED:
            raise MilepostError(f"the run has {self.state}: it has no further attempt")
        if len(self.attempts) >= MOST_ATTEMPTS:
            raise MilepostError(f"{MOST_ATTEMPTS} attempts and no end: the task dies in each of them")
        attempt = Attempt(len(self.attempts) + 1)
        self.attempts.append(attempt)
        process = Process(attempt, self.executions, crash, cancel)
        start = self._start(attempt.number)
        settle = partial(self._settle, attempt, process)
        sidecar = MemorySidecar(start, self._rows, settle, writes=process.writes, wrote=process.wrote)
        return Going(self.task, process, sidecar, self._world)

    def _settle(self, attempt: Attempt, process: Process, wanted: Settlement) -> str:
        failed = wanted.failure
        if process.cancelled:  # whatever came of the attempt
            attempt.end = self.state = "cancelled"
        elif wanted.result is not None:
            attempt.result = json.loads(wanted.result)
            attempt.end = self.state = "succeeded"
        elif failed is not None:
            attempt.end = "failed"
            over = failed.kind == "fatal" or failed.retryable is False or self._failed() >= self._max_attempts
            self.state = "failed" if over else "backoff"
            self.advance(timedelta(seconds=failed.retry_after_seconds or 0))
        return self.state

    def _failed(self) -> int:
        return sum(one.end == "failed" for one in self.attempts)

    def _ended(self, going: "Going") -> Attempt:
        attempt = going.process.attempt
        if (point := going.process.missed()) is not None:
            reached = [record.key for record in self._rows.records if record.attempt == attempt.number]
            raise MilepostError(f"the attempt ended without reaching {point}: its records are {reached}")
        if attempt.end == "crashed":
            self.state = "queued"
        return attempt

    def _start(self, number: int) -> Start:
        last = self._rows.records[-1] if self._rows.records else None
        cause: Literal["first", "retry", "infra"] = "first"
        if number > 1:
            cause = "infra" if self.state == "queued" else "retry"
        return Start(
            run_id="00000000-0000-4000-8000-000000000001", run_name=f"{self.task.id}-1", namespace="default",
            task=self.task.id, version=1, attempt=number, token=number, cause=cause, input=self._input,
            tags=self._tags, entrypoint=None, command=None, source=None, max_attempts=self._max_attempts,
            attempt_seconds=3600, lease_seconds=30.0, beat_seconds=5.0, max_record_bytes=self._max_bytes,
            max_result_bytes=self._max_bytes, max_object_bytes=self._max_object_bytes, grace_seconds=30,
            on_partition="continue",
            records=len(self._rows.records), last_seq=last.seq if last else 0, last_key=last.key if last else None,
            created_at=self._created_at, attempts_counted=self._failed(),
        )  # fmt: skip

    def _outcome(self) -> JSON:
        """Give the result of a run that ended. Raises what its last attempt raised."""
        if self.state == "succeeded":
            return self.result
        error = self.attempts[-1].error
        raise error if error is not None else MilepostError(f"the run has {self.state}")


class TaskRun(_Run):
    """A run for tests that are plain functions."""

    def attempt(self, *, crash: Point | None = None, cancel: Point | None = None) -> Attempt:
        """Run one attempt. `crash`: where its process dies; `cancel`: where the run is cancelled.

        Raises MilepostError when the attempt does not come to such a place, or the run ended before.
        """
        going = self._begin(crash, cancel)
        if self.task.is_async:
            with asyncio.Runner() as runner:
                runner.run(going.run_async())
        else:
            copy_context().run(going.run_plain)
        return self._ended(going)

    def finish(self) -> JSON:
        """Run attempts until the run ends; its result. Raises what the last attempt raised."""
        while self.state not in ENDED:
            self.attempt()
        return self._outcome()


class AsyncTaskRun(_Run):
    """A run for tests that are coroutines: an async task shares their event loop, a plain one has a thread."""

    async def attempt(self, *, crash: Point | None = None, cancel: Point | None = None) -> Attempt:
        """Run one attempt, as `TaskRun.attempt` does."""
        going = self._begin(crash, cancel)
        if self.task.is_async:
            await asyncio.create_task(going.run_async())  # a context of its own
        else:
            await asyncio.to_thread(going.run_plain)
        return self._ended(going)

    async def finish(self) -> JSON:
        """Run attempts until the run ends; its result. Raises what the last attempt raised."""
        while self.state not in ENDED:
            await self.attempt()
        return self._outcome()


def _value(record: StoredRecord) -> object:
    return read(json.loads(record.write.value), record.write.types, Any)
