"""Attempts of a task in this process: a sidecar in memory, and a clock that tests turn."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import unquote

from milepost.net.messages import Headers, Reply
from milepost.sdk.context import Context, enter
from milepost.sdk.journal import Journal
from milepost.sdk.run import AttemptInfo, RunInfo
from milepost.sdk.scope import spawn
from milepost.sdk.sync import SyncContext, enter_sync
from milepost.sdk.waits import Clock
from milepost.wire.pod import Wait


class LeftError(BaseException):
    """The attempt ended to wait."""


class DiedError(BaseException):
    """The process died here."""


@dataclass
class Record:
    kind: str
    key: str
    value: object
    headers: dict[str, str]

    def line(self) -> bytes:
        members = {"kind": self.kind, "key": self.key, "value": self.value, "types": self.headers.get("Milepost-Types")}
        return json.dumps(members | {"failed": self.headers.get("Milepost-Failed") == "true"}).encode()


@dataclass
class Run:
    """One run: what is recorded, and its clock. `slept`: the pauses of plain tasks; `waits`: what attempts left for."""

    records: list[Record] = field(default_factory=list)
    attempt: int = 0
    now: float = 1_000_000.0
    slept: float = 0.0
    waits: list[list[Wait]] = field(default_factory=list)
    timers: list["Timer"] = field(default_factory=list)
    refusal: Exception | None = None
    loop: asyncio.AbstractEventLoop | None = None
    left: int = 0
    writes: int = 0
    dies_before: int | None = None
    dies_after: int | None = None
    calm: int = 0
    turning: bool = False

    @property
    def tries(self) -> list[dict]:
        return [r.value for r in self.records if r.key.startswith("~retry/")]  # type: ignore[misc]

    @property
    def keys(self) -> list[str]:
        return [r.key for r in self.records]

    def put(self, method: str, target: str, headers: Headers, body: bytes = b"") -> Reply:
        assert method == "PUT", target
        if len(self.waits) > self.left:
            raise LeftError  # in truth there is no process any more
        if self.writes == self.dies_before:
            self.dies_before = None
            raise DiedError
        self.writes += 1
        kind, _, key = target.removeprefix("/v1/").partition("/")
        self.records.append(Record(kind.removesuffix("s"), unquote(key), json.loads(body), dict(headers)))
        if self.writes == self.dies_after:
            self.dies_after = None
            raise DiedError
        return Reply(200, {}, b'{"seq": 1}')

    def leave(self, waits: Sequence[Wait]) -> NoReturn:
        if self.refusal is not None:
            raise self.refusal
        self.waits.append(list(waits))
        raise LeftError

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.now += seconds

    def later(self, seconds: float, call: Callable[[], object]) -> "Timer":
        timer = Timer(self.now + seconds, call)
        self.timers.append(timer)
        if self.loop is not None:
            self.calm = 0
            if not self.turning:
                self.turning = True
                self.loop.call_soon(self._turn)
        return timer

    def _turn(self) -> None:
        """Let the clock jump to the next timer once everything has stood still for a while."""
        assert self.loop is not None
        self.calm += 1
        if self.calm < 50:
            self.loop.call_soon(self._turn)
            return
        self.calm = 0
        waiting = sorted((t for t in self.timers if not t.gone), key=lambda t: t.at)
        if waiting:
            first = waiting[0]
            first.gone = True
            self.now = max(self.now, first.at)
            first.call()
            self.loop.call_soon(self._turn)
        else:
            self.turning = False

    def journal(self) -> Journal:
        self.attempt += 1
        self.left = len(self.waits)
        run = RunInfo("r", "r", "n", "t", 1, self.attempt, "first", 3, (), "")
        journal = Journal(AttemptInfo(run, None, None, None, 1000, 1000, 1, 0))
        for record in self.records:
            journal.load(record.line())
        return journal

    def do(self, task: Callable[[Context], Awaitable[object]]) -> object:
        """Run an attempt of an async task; `LeftError` when it ended to wait."""

        async def body() -> object:
            self.loop = asyncio.get_running_loop()
            self.loop.set_task_factory(spawn)
            self.loop.set_exception_handler(lambda *_: None)  # branches that ended with the process
            self.timers.clear()
            self.turning = False
            clock = Clock(lambda: self.now, self.sleep, self.later)  # type: ignore[arg-type]
            context = Context(self.journal(), _AsyncSidecar(self), self.leave, clock)  # type: ignore[arg-type]
            enter(context)
            return await task(context)

        return asyncio.run(body())

    def do_plain(self, task: Callable[[SyncContext], object]) -> object:
        """Run an attempt of a plain task."""
        context = SyncContext(self.journal(), _Sidecar(self), self.leave, Clock(lambda: self.now, self.sleep))  # type: ignore[arg-type]

        def body() -> object:
            enter_sync(context)
            return task(context)

        return copy_context().run(body)


@dataclass
class Timer:
    at: float
    call: Callable[[], object]
    gone: bool = False

    def cancel(self) -> None:
        self.gone = True


@dataclass
class _Sidecar:
    run: Run

    def call(self, method: str, target: str, headers: Headers, body: bytes = b"") -> Reply:
        return self.run.put(method, target, headers, body)


@dataclass
class _AsyncSidecar:
    run: Run

    async def call(self, method: str, target: str, headers: Headers, body: bytes = b"") -> Reply:
        return self.run.put(method, target, headers, body)
