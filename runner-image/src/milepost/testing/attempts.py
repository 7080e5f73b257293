"""One attempt in memory: the contexts of the SDK on a sidecar in memory, and how it ended."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, Literal, TypeVar
from uuid import UUID

from milepost.net.messages import Headers, Reply
from milepost.sdk.client import AsyncSidecar, BlockingSidecar, accepted
from milepost.sdk.context import Context
from milepost.sdk.journal import Journal
from milepost.sdk.sync import SyncContext
from milepost.sdk.waits import Clock
from milepost.testing.memory import MemorySidecar, StoredRecord
from milepost.testing.points import Point, ProcessDiedError, When
from milepost.wire.values import JSON

T = TypeVar("T")
End = Literal["succeeded", "failed", "cancelled", "crashed"]


@dataclass
class Attempt:
    """How an attempt ended. `executed`: the keys of the steps whose bodies ran, in their order.

    `error`: what the task raised, the object itself. `result`: as JSON, None unless it succeeded.
    """

    number: int
    end: End = "crashed"
    result: JSON = None
    error: BaseException | None = None
    executed: list[str] = field(default_factory=list)


@dataclass
class World:
    """What is outside of the attempts of a run: its time and its chance."""

    now: datetime
    chance: Random

    def time(self) -> datetime:
        """Give the time."""
        return self.now

    def clock(self) -> Clock:
        """Give the clock of retries: a wait is over at once, and the world's time is later by it."""

        def later(seconds: float, fn: Callable[[], object]) -> asyncio.Handle:
            self.wait(seconds)
            return asyncio.get_running_loop().call_soon(fn)

        return Clock(self._seconds, self.wait, later)

    def _seconds(self) -> float:
        return self.now.timestamp()

    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.now += timedelta(seconds=seconds)

    def number(self) -> float:
        """Give a number from 0 up to 1."""
        return self.chance.random()

    def uuid(self) -> UUID:
        """Give a random UUID."""
        return UUID(int=self.chance.getrandbits(128), version=4)


class Process:
    """The process of an attempt: it dies, or is told to cancel, where the test wants it."""

    def __init__(self, attempt: Attempt, executions: Counter[str], crash: Point | None, cancel: Point | None) -> None:
        self.attempt = attempt
        self.dead = False
        self.cancelled = False
        self.crash, self.cancel = crash, cancel
        self.on_death: Callable[[], None] = lambda: None
        self.on_cancel: Callable[[], None] = lambda: None
        self._executions = executions
        self._dies_next = False

    def live(self) -> None:
        """Go on, unless the process is dead. Raises ProcessDiedError."""
        if self.dead or self._dies_next:
            self._die()

    def missed(self) -> Point | None:
        """Give the place that the test wanted and the attempt did not come to."""
        if self.dead:
            return None
        return self.crash or (None if self.cancelled else self.cancel)

    def executes(self, key: str) -> None:
        """A step's body begins."""
        self.live()
        self._executions[key] += 1
        self.attempt.executed.append(key)

    def writes(self, number: int, record: StoredRecord) -> None:
        """A record is about to be kept."""
        if self._met("before", self.crash, number, record):
            self._die()
        if self._met("before", self.cancel, number, record):
            self._cancel()

    def wrote(self, number: int, record: StoredRecord) -> None:
        """A record is kept, and not acknowledged yet."""
        if self._met("unacknowledged", self.crash, number, record):
            self._die()
        self._dies_next = self._dies_next or self._met("after", self.crash, number, record)
        if self._met("unacknowledged", self.cancel, number, record) or self._met("after", self.cancel, number, record):
            self._cancel()

    @staticmethod
    def _met(when: When, point: Point | None, number: int, record: StoredRecord) -> bool:
        return point is not None and point.when == when and point.at(number, record.key)

    def _die(self) -> None:
        if not self.dead:
            self.dead = True
            self.on_death()
        raise ProcessDiedError("the test lets the process die here")

    def _cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self.on_cancel()


class AsyncMemory(AsyncSidecar):
    """The sidecar of an async task."""

    def __init__(self, sidecar: MemorySidecar, process: Process) -> None:
        self._sidecar = sidecar
        self._process = process

    async def call(self, method: str, target: str, headers: Headers, body: bytes = b"") -> Reply:
        """Answer as `AsyncSidecar.call` does; other branches have their turn before and after."""
        self._process.live()
        await asyncio.sleep(0)
        reply = accepted(self._sidecar.request(method, target, headers, body))
        await asyncio.sleep(0)
        return reply

    async def lines(self, target: str, take: Callable[[bytes], None]) -> None:
        """Hand each line of an answer to `take`."""
        for line in accepted(self._sidecar.request("GET", target, [])).body.splitlines():
            take(line)

    def close(self) -> None:
        """Nothing is open."""


class BlockingMemory(BlockingSidecar):
    """The sidecar of a plain task."""

    def __init__(self, sidecar: MemorySidecar, process: Process) -> None:
        self._sidecar = sidecar
        self._process = process

    def call(self, method: str, target: str, headers: Headers, body: bytes = b"") -> Reply:
        """Answer as `BlockingSidecar.call` does."""
        self._process.live()
        return accepted(self._sidecar.request(method, target, headers, body))

    def lines(self, target: str, take: Callable[[bytes], None]) -> None:
        """Hand each line of an answer to `take`."""
        for line in accepted(self._sidecar.request("GET", target, [])).body.splitlines():
            take(line)

    def close(self) -> None:
        """Nothing is open."""


class TestedContext(Context):
    """The context of an async task, with the time and the chance of its test."""

    def __init__(self, journal: Journal, sidecar: AsyncMemory, process: Process, world: World) -> None:
        super().__init__(journal, sidecar, clock=world.clock())
        self._process = process
        self._world = world

    async def _call(self, key: str, *rest: Any) -> object:
        self._process.executes(key)
        return await super()._call(key, *rest)

    async def now(self) -> datetime:
        """Give the time of the test."""
        return await self.step("ctx.now", _coroutine(self._world.time))

    async def random(self) -> float:
        """Give a number, the same in each run of the test."""
        return await self.step("ctx.random", _coroutine(self._world.number))

    async def uuid(self) -> UUID:
        """Give a UUID, the same in each run of the test."""
        return await self.step("ctx.uuid", _coroutine(self._world.uuid))


class TestedSyncContext(SyncContext):
    """The context of a plain task, with the time and the chance of its test."""

    def __init__(self, journal: Journal, sidecar: BlockingMemory, process: Process, world: World) -> None:
        super().__init__(journal, sidecar, clock=world.clock())
        self._process = process
        self._world = world

    def _call(self, key: str, *rest: Any) -> Any:  # type: ignore[override]  # it needs itself
        self._process.executes(key)
        return super()._call(key, *rest)

    def now(self) -> datetime:
        """Give the time of the test."""
        return self.step("ctx.now", self._world.time)

    def random(self) -> float:
        """Give a number, the same in each run of the test."""
        return self.step("ctx.random", self._world.number)

    def uuid(self) -> UUID:
        """Give a UUID, the same in each run of the test."""
        return self.step("ctx.uuid", self._world.uuid)


def _coroutine(fn: Callable[[], T]) -> Callable[[], Awaitable[T]]:
    """Make it a coroutine function, which needs no thread."""

    async def call() -> T:
        return fn()

    return call
