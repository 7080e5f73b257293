"""Requests that wait for runs: one look at the database for all of them, however many there are."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from enum import Enum
from typing import Final, Generic, TypeVar

from milepost_operator.domain.errors import MilepostError, OverloadedError
from milepost_operator.obs.logging import get_logger

MAX_WAIT_SECONDS: Final = 60.0
MAX_WAITING: Final = 10_000
CHUNK: Final = 1_000
LOOK_SECONDS: Final = 0.1
"""Between two looks; a tenth of a millisecond more for each run that is waited for."""
GAP_SECONDS: Final = 0.02
FAILED_SECONDS: Final = 1.0

Key = TypeVar("Key", bound=Hashable)

_log = get_logger(__name__)


class Come(Enum):
    """How what is waited for came to be known. `told` by whoever made it, `seen` by looking."""

    TOLD = "told"
    SEEN = "seen"


class Waiters(Generic[Key]):
    """`come` tells for which of some keys (runs, say) what they wait for has come. Nobody waits: it is not asked.

    `look_seconds`: between two looks that nobody asked for. Where they are far apart, `anew` looks for each that comes
    to wait, since what it waits for may have come a moment before.
    """

    def __init__(
        self,
        come: Callable[[Sequence[Key]], Awaitable[Sequence[Key]]],
        *,
        look_seconds: float = LOOK_SECONDS,
        anew: bool = False,
    ) -> None:
        self._come = come
        self._look_seconds = look_seconds
        self._anew = anew
        self._waiting: dict[Key, list[asyncio.Future[Come]]] = {}
        self._count = 0
        self._nudged = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    def nudge(self) -> None:
        """It has come for some: look soon."""
        if self._waiting:
            self._nudged.set()

    def tell(self, keys: Sequence[Key]) -> None:
        """It has come for these."""
        self._wake(keys, Come.TOLD)

    def _wake(self, keys: Sequence[Key], how: Come) -> None:
        for key in keys:
            for future in self._waiting.pop(key, ()):
                if not future.done():
                    future.set_result(how)

    async def wait(self, key: Key, seconds: float) -> Come | None:
        """Wait until it has come; None after `seconds`. OverloadedError when too many wait here."""
        if self._count >= MAX_WAITING:
            raise OverloadedError("too many requests wait for runs here")
        future: asyncio.Future[Come] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        self._count += 1
        if self._work is None:
            self._work = asyncio.create_task(self._look_for_ever(), name="waiters")
        elif self._anew:
            self._nudged.set()
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            return None
        finally:
            self._count -= 1
            self._leave(key, future)

    def _leave(self, key: Key, future: asyncio.Future[Come]) -> None:
        others = self._waiting.get(key)
        if others is None:
            return
        if future in others:
            others.remove(future)
        if not others:
            del self._waiting[key]

    async def _look_for_ever(self) -> None:
        try:
            while self._waiting:
                self._nudged.clear()
                began = time.monotonic()
                pause = self._look_seconds + len(self._waiting) / 10_000
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
            self._wake(await self._come(asked[begin : begin + CHUNK]), Come.SEEN)
