"""Keeps the lease: one heartbeat every beat, on its own connection, and what the answer tells the task."""

import asyncio
import time
from dataclasses import asdict
from typing import Final

from milepost.net.messages import ProblemError, Reply, TransportError, compact, jitter
from milepost.sidecar.decode import BadAnswerError, build
from milepost.sidecar.log import log
from milepost.sidecar.session import Api, SessionRefusedError
from milepost.sidecar.state import AttemptState
from milepost.wire.pod import HeartbeatAnswer, HeartbeatRequest, Start

OK: Final = 200
DEFINITE: Final = frozenset({403, 409, 410})
RETRY_SECONDS: Final = 0.3


class Heart:
    """Beats from the start of the attempt to its end."""

    def __init__(self, api: Api, state: AttemptState) -> None:
        self._api = api
        self._state = state

    async def run(self) -> None:
        """Beat until the attempt is settled or stopped."""
        try:
            start = await self._state.wait_started()
        except ProblemError:
            return  # stopped before it started
        while not self._state.ended.is_set():
            alive = await self._beat(start)
            if not alive:
                await self._check_partition(start)
            pause = start.beat_seconds if alive else min(start.beat_seconds, RETRY_SECONDS * 2) * jitter()
            try:
                await asyncio.wait_for(self._state.ended.wait(), pause)
            except TimeoutError:
                continue

    async def _beat(self, start: Start) -> bool:
        sent, progress = time.monotonic(), self._state.progress
        fraction, message = progress or (None, None)
        body = compact(asdict(HeartbeatRequest(self._state.fence, fraction, message)))
        try:
            limit = max(start.beat_seconds, 1.0)
            reply = await self._api.attempt(self._api.beats, "POST", "/heartbeat", body, limit)
        except TransportError as error:
            log("heartbeat-failed", error=str(error))
            return False
        except SessionRefusedError as error:
            await self._state.stop(str(error))
            return True
        return await self._answered(reply, sent, progress)

    async def _answered(self, reply: Reply, sent: float, progress: tuple[float | None, str | None] | None) -> bool:
        if reply.status == OK:
            try:
                answer = build(HeartbeatAnswer, reply.json())
            except (BadAnswerError, ValueError) as error:
                log("bad-answer", route="/heartbeat", error=str(error))
                return False
            self._state.last_answer = sent
            if self._state.progress is progress:
                self._state.progress = None
            if answer.directive == "cancel":
                await self._state.cancel(answer.grace_seconds)
            return True
        if reply.status in DEFINITE and self._state.phase != "settling":
            problem = reply.problem()
            await self._state.stop(f"{problem.get('code') or reply.status}: {problem.get('detail') or 'fenced'}")
            return True
        log("heartbeat-failed", status=reply.status)
        return False

    async def _check_partition(self, start: Start) -> None:
        silent = time.monotonic() - self._state.last_answer
        if start.on_partition == "stop" and silent > start.lease_seconds:
            await self._state.stop(f"no answer for {silent:.1f} s and onPartition is stop")
