"""Waits of a task: in its pod while they are short; else the attempt ends, and the next one goes on when it is time.

An attempt that ends to wait never unwinds the stack: it is settled, and the process exits. So it may only end when
every branch of the task waits. Which do is read off the event loop; what is not known to wait is taken to be at work.
"""

import asyncio
import time
from asyncio import Future, Handle
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Final, NoReturn, Protocol, TypeAlias

from milepost.errors import NotRecordableError, ProtocolError
from milepost.sdk.scope import Scope, scope
from milepost.wire.wait import Wait

Leave: TypeAlias = Callable[[Sequence[Wait]], NoReturn]
"""Settles the attempt as one that waits, and ends the process."""
REFUSALS: Final = (NotRecordableError, ProtocolError)
"""Of a sidecar that knows no such wait: it is an older one. Then the attempt waits in its pod."""
CHECK_SECONDS: Final = 0.5
SLICE_SECONDS: Final = 0.1


class Paused(Protocol):
    """What a pause is for."""

    def wait(self, now: float) -> Wait: ...


class Clock:
    """`now`: seconds since 1970; `call_later` None: the running loop's."""

    def __init__(
        self,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        call_later: Callable[[float, Callable[[], object]], Handle] | None = None,
    ) -> None:
        self.now = now
        self.sleep = sleep
        self.call_later = call_later


def in_step() -> bool:
    """Tell whether this is the body of a step: then the attempt can't end to wait, since the step would begin again."""
    return ">" in (scope.get(None) or Scope()).prefix


class _Parked:
    def __init__(self, paused: Paused, until: float, hold: float, woken: "Future[None]") -> None:
        self.paused = paused
        self.until = until
        self.hold = hold
        self.woken = woken


class AsyncWaits:
    """The pauses of an async task."""

    def __init__(self, clock: Clock, leave: Leave | None) -> None:
        self.clock = clock
        self._leave = leave
        self._loop = asyncio.get_running_loop()
        self._later = clock.call_later or self._loop.call_later
        self._parked: dict[asyncio.Task[object], _Parked] = {}
        self._check: Handle | None = None

    async def pause(self, paused: Paused, seconds: float, hold: float) -> None:
        """Return after so many seconds, unless the attempt ends before: it may when more than `hold` are left."""
        woken: Future[None] = self._loop.create_future()
        timer = self._later(seconds, lambda: None if woken.done() else woken.set_result(None))
        task = asyncio.current_task()
        leaves = self._leave is not None and seconds > hold and not in_step()
        try:
            if leaves and task is not None and not task.cancelling():
                self._parked[task] = _Parked(paused, self.clock.now() + seconds, hold, woken)
                self._check_in(0)
            await woken
        finally:
            timer.cancel()
            if task is not None:
                self._parked.pop(task, None)

    def _check_in(self, seconds: float) -> None:
        if self._check is not None:
            self._check.cancel()
        self._check = self._later(seconds, self._leave_if_quiet)

    def _leave_if_quiet(self) -> None:
        self._check = None
        if not self._parked or self._leave is None:
            return
        now = self.clock.now()
        spare = min(parked.until - now - parked.hold for parked in self._parked.values())
        if spare > 0 and quiet(self._loop, self._parked):
            try:
                self._leave([parked.paused.wait(now) for parked in self._parked.values()])
            except REFUSALS:
                self._leave = None
            except BaseException as error:  # noqa: BLE001  # fenced, say: the branches have to hear of it
                for parked in self._parked.values():
                    if not parked.woken.done():
                        parked.woken.set_exception(error)
            return
        self._check_in(CHECK_SECONDS)


class SyncWaits:
    """The pauses of a plain task."""

    def __init__(self, clock: Clock, leave: Leave | None) -> None:
        self.clock = clock
        self._leave = leave

    def stay(self) -> None:
        """From now on wait in the pod: the run is cancelled, and what cleans up must not be cut off."""
        self._leave = None

    def pause(self, paused: Paused, seconds: float, hold: float, interrupt: Callable[[], None]) -> None:
        """Return after so many seconds, or end the attempt when they are more than `hold`. `interrupt` may raise."""
        if self._leave is not None and seconds > hold and not in_step():
            try:
                self._leave([paused.wait(self.clock.now())])
            except REFUSALS:
                self._leave = None
        left = seconds
        while left > 0:  # in slices: a signal to cancel does not end a sleep
            interrupt()
            self.clock.sleep(min(left, SLICE_SECONDS))
            left -= SLICE_SECONDS
        interrupt()


def _waits_for_tasks() -> frozenset[CodeType]:
    """Code of asyncio that waits for nothing but other tasks of the loop."""
    from asyncio import tasks  # noqa: PLC0415

    functions = [
        asyncio.Semaphore.acquire,
        asyncio.Lock.acquire,
        asyncio.TaskGroup.__aexit__,
        getattr(asyncio.TaskGroup, "_aexit", None),  # of newer Pythons
        getattr(tasks, "_wait", None),
    ]
    return frozenset(code for f in functions if isinstance(code := getattr(f, "__code__", None), CodeType))


WAITS_FOR_TASKS: Final = _waits_for_tasks()


def quiet(loop: asyncio.AbstractEventLoop, parked: "dict[asyncio.Task[object], _Parked]") -> bool:
    """Tell whether each task of the loop is parked, or waits for other tasks only; and no timeout runs."""
    if any(_is_timeout(handle) for handle in getattr(loop, "_scheduled", ())):
        return False  # it would end a wait of ours: in the next attempt it would begin anew
    return all(
        (task in parked and not parked[task].woken.done()) or _waits_for_others(task)
        for task in asyncio.all_tasks(loop)
    )


def _is_timeout(handle: Handle) -> bool:
    callback = getattr(handle, "_callback", None)
    timed = isinstance(getattr(callback, "__self__", None), asyncio.Timeout)
    return not handle.cancelled() and (timed or getattr(callback, "__name__", "") == "_release_waiter")


def _waits_for_others(task: "asyncio.Task[object]") -> bool:
    waiter = getattr(task, "_fut_waiter", None)
    if not isinstance(waiter, Future) or waiter.done() or task.cancelling():
        return False
    if isinstance(waiter, asyncio.Task):
        return True
    children = getattr(waiter, "_children", None)  # of gather
    if isinstance(children, list):
        return all(isinstance(child, asyncio.Task) for child in children if not child.done())
    return _innermost(task.get_coro()) in WAITS_FOR_TASKS


def _innermost(coroutine: object) -> object:
    """Give the code in which a coroutine awaits something that is no coroutine."""
    code: object = None
    while (inner := getattr(coroutine, "cr_code", None)) is not None:
        code = inner
        coroutine = getattr(coroutine, "cr_await", None)
    return code
