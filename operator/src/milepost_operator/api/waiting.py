"""Requests that wait for the end of a run: one look at the database for all of them, however many there are."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import UUID

from milepost_operator.domain.errors import MilepostError, OverloadedError
from milepost_operator.obs.logging import get_logger

MAX_WAIT_SECONDS: Final = 60.0
MAX_WAITING: Final = 10_000
CHUNK: Final = 1_000
LOOK_SECONDS: Final = 0.1
"""Between two looks; a tenth of a millisecond more for each run that is waited for."""
GAP_SECONDS: Final = 0.02
FAILED_SECONDS: Final = 1.0

_log = get_logger(__name__)


class Waiters:
    """`ended` tells which of some runs have ended. The looking stops when nobody waits."""

    def __init__(self, ended: Callable[[Sequence[UUID]], Awaitable[Sequence[UUID]]]) -> None:
        self._ended = ended
        self._waiting: dict[UUID, list[asyncio.Future[None]]] = {}
        self._count = 0
        self._nudged = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    def nudge(self) -> None:
        """Some run has ended: look soon."""
        if self._waiting:
            self._nudged.set()

    async def wait(self, run_id: UUID, seconds: float) -> bool:
        """True once the run has ended; False after `seconds`. OverloadedError when too many wait here."""
        if self._count >= MAX_WAITING:
            raise OverloadedError("too many requests wait for runs here")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, []).append(future)
        self._count += 1
        if self._work is None:
            self._work = asyncio.create_task(self._look_for_ever(), name="waiters")
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return False
        finally:
            self._count -= 1
            self._leave(run_id, future)
        return True

    def _leave(self, run_id: UUID, future: asyncio.Future[None]) -> None:
        others = self._waiting.get(run_id)
        if others is None:
            return
        if future in others:
            others.remove(future)
        if not others:
            del self._waiting[run_id]

    async def _look_for_ever(self) -> None:
        try:
            while self._waiting:
                self._nudged.clear()
                began = time.monotonic()
                pause = LOOK_SECONDS + len(self._waiting) / 10_000
                try:
                    await self._look()
                except MilepostError as error:
                    _log.warning("waiters_unavailable", waiting=self._count, error=str(error))
                    pause = FAILED_SECONDS
                await asyncio.sleep(GAP_SECONDS)
                try:
                    async with asyncio.timeout(max(0.0, pause - (time.monotonic() - began))):
                        await self._nudged.wait()
                except TimeoutError:
                    continue
        finally:
            self._work = None

    async def _look(self) -> None:
        asked = list(self._waiting)
        for begin in range(0, len(asked), CHUNK):
            for run_id in await self._ended(asked[begin : begin + CHUNK]):
                for future in self._waiting.pop(run_id, ()):
                    if not future.done():
                        future.set_result(None)
