"""What the sidecar knows of its attempt: where it stands, what the task must be told, what the next heartbeat says."""

import asyncio
import time
from typing import Literal

from milepost.net.messages import ProblemError
from milepost.sidecar.log import log
from milepost.wire.pod import Code, Fence, Start

Phase = Literal["starting", "running", "settling", "settled", "stopped"]
Directive = Literal["cancel", "stop"]


class AttemptState:
    """One attempt, from its start to its settling or its stop. All waiters are woken by every change."""

    def __init__(self) -> None:
        self.phase: Phase = "starting"
        self.start: Start | None = None
        self.code: Code | None = None
        self.directive: Directive | None = None
        self.reason = ""
        self.grace_seconds = 0
        self.settled_state = ""
        self.settle_identity = ""
        self.progress: tuple[float | None, str | None] | None = None
        self.last_answer = time.monotonic()
        self._changed = asyncio.Condition()
        self.stopped = asyncio.Event()
        self.ended = asyncio.Event()

    @property
    def fence(self) -> Fence:
        """Name the attempt, for a write."""
        start = self.running()
        return Fence(start.run_id, start.attempt, start.token)

    def running(self) -> Start:
        """Give the start. Raises ProblemError 503 while there is none: a restarted sidecar recovers it in a moment."""
        if self.start is None:
            detail = "the attempt has not started: GET /v1/attempt waits for it"
            raise ProblemError(503, "not-started", detail, headers=[("Retry-After", "1")])
        return self.start

    def check_open(self) -> Start:
        """Give the start of an attempt that may still write. Raises ProblemError 409."""
        if self.phase == "stopped":
            raise self.fenced()
        if self.phase in {"settling", "settled"}:
            raise ProblemError(409, "settled", "this attempt has its result: nothing can be written after it")
        return self.running()

    def fenced(self) -> ProblemError:
        """Make the refusal of whatever comes after the attempt was told to stop."""
        return ProblemError(409, "fenced", f"this attempt was told to stop: {self.reason}")

    async def began(self, start: Start) -> None:
        """Enter `running`."""
        self.start = start
        self.last_answer = time.monotonic()
        if self.phase == "starting":
            self.phase = "running"
        await self._wake()

    async def prepares(self, code: Code) -> None:
        """Tell that the pod has no attempt yet, and what to load for its first one."""
        self.code = code
        await self._wake()

    async def cancel(self, grace_seconds: int) -> None:
        """Pass the wish to cancel on to the task."""
        if self.directive is None:
            log("cancel", grace_seconds=grace_seconds)
            self.directive, self.reason, self.grace_seconds = "cancel", "the run was cancelled", grace_seconds
            await self._wake()

    async def stop(self, reason: str) -> None:
        """Refuse every further write and have the task killed. Without effect on a settled attempt."""
        if self.phase in {"settled", "stopped"}:
            return
        log("stop", reason=reason)
        self.phase, self.directive, self.reason = "stopped", "stop", reason
        self.stopped.set()
        self.ended.set()
        await self._wake()

    async def settled(self, state: str, identity: str) -> None:
        """Enter `settled`: the run's state after it, and which request it was (to answer a repetition)."""
        self.phase, self.settled_state, self.settle_identity = "settled", state, identity
        self.ended.set()
        await self._wake()

    async def wait_started(self) -> Start:
        """Wait for the start. Raises ProblemError 409 if the attempt is told to stop instead."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.start is not None or self.phase == "stopped")
        if self.phase == "stopped":
            raise self.fenced()
        return self.running()

    async def wait_known(self) -> Start | Code:
        """Wait for the start, or for what to load where the pod has no attempt yet. Raises as `wait_started`."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self.start is not None or self.code is not None or self.phase == "stopped"
            )
        if self.phase == "stopped":
            raise self.fenced()
        return self.running() if self.code is None else self.code

    async def wait_directive(self, seen: str) -> Directive:
        """Wait for a directive other than the one already seen."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.directive is not None and self.directive != seen)
        if self.directive is None:
            raise RuntimeError("a directive is never taken back")
        return self.directive

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()
