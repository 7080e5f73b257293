"""A duty that turns for as long as the process lives: on a wake-up, and without one after an interval."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import structlog

from milepost_operator.domain.errors import DeposedError, MilepostError, UnavailableError

log = structlog.stdlib.get_logger(__name__)

T = TypeVar("T")

_MAX_BACKOFF: Final = 15.0


class Loop:
    """Calls `turn` again and again. An error is logged and the next turn comes later; DeposedError ends the loop.

    `interval`: seconds to the next turn when nothing wakes it. `spacing`: seconds that two turns are apart at least,
    so that a storm of wake-ups is one turn.
    """

    def __init__(
        self, name: str, turn: Callable[[], Awaitable[object]], *, interval: float, spacing: float = 0.0
    ) -> None:
        self.name = name
        self._turn = turn
        self._interval = interval
        self._spacing = spacing
        self._wake = asyncio.Event()
        self.last_turn = time.monotonic()
        self.failures = 0

    def wake(self) -> None:
        self._wake.set()

    def age(self) -> float:
        """Seconds since the last turn came back, well or not."""
        return time.monotonic() - self.last_turn

    async def run(self) -> None:
        while True:
            self._wake.clear()
            pause = self._interval
            try:
                await self._turn()
                self.failures = 0
            except DeposedError:
                raise
            except Exception as error:  # noqa: BLE001 (logged; a duty must outlive any one turn)
                pause = self._failed(error)
            self.last_turn = time.monotonic()
            if self._spacing:
                await asyncio.sleep(self._spacing)
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _failed(self, error: Exception) -> float:
        self.failures += 1
        pause: float = min(self._interval * float(2 ** min(self.failures, 6)), _MAX_BACKOFF)
        if isinstance(error, UnavailableError):
            pause = max(pause, error.retry_after_seconds)
        if isinstance(error, MilepostError):
            log.warning("turn_failed", loop=self.name, error=str(error), code=error.code, failures=self.failures)
        else:
            log.error("turn_failed", loop=self.name, failures=self.failures, exc_info=error)
        return pause


async def each(items: Sequence[T], act: Callable[[T], Awaitable[object]], *, at_once: int, what: str) -> None:
    """Do `act` for all items, `at_once` of them at a time; one that fails is logged and hinders no other. Only
    DeposedError ends them all.
    """
    gate = asyncio.Semaphore(at_once)

    async def guarded(item: T) -> None:
        async with gate:
            try:
                await act(item)
            except DeposedError:
                raise
            except MilepostError as error:
                log.warning("not_done", what=what, error=str(error), code=error.code)
            except Exception:
                log.exception("not_done", what=what)

    try:
        async with asyncio.TaskGroup() as group:
            for item in items:
                group.create_task(guarded(item))
    except ExceptionGroup as failed:  # the loop has to see it as what it is
        raise failed.exceptions[0] from None
