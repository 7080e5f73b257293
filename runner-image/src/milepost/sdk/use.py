"""How a context may be used: in its own run, process and event loop (or thread), before its task ends, and awaited."""

import asyncio
import os
import sys
import threading
import warnings
from collections.abc import Callable, Coroutine
from inspect import CORO_CREATED, getcoroutinestate
from itertools import islice
from types import CodeType, CoroutineType
from typing import Any, Final, NamedTuple, Protocol

from milepost.errors import ContextUseError, NotAwaitedError
from milepost.sdk.fingerprint import OWN_CODE
from milepost.sdk.run import RunInfo


class Place(NamedTuple):
    """Where a call was made. Its line is worked out only when it is told."""

    code: CodeType
    lasti: int

    def __str__(self) -> str:
        # a position for each code unit of two bytes
        line = next(islice(self.code.co_positions(), self.lasti // 2, None), (None,))[0]
        return f"{self.code.co_filename}:{line or self.code.co_firstlineno} in {self.code.co_qualname}"


def called_at(depth: int) -> Place:
    """Give the place `depth` calls above who asks."""
    frame = sys._getframe(depth + 1)  # noqa: SLF001
    return Place(frame.f_code, frame.f_lasti)


class _Process:
    """Counts the forks between this process and the one that imported Milepost."""

    forks = 0

    @classmethod
    def forked(cls) -> None:
        cls.forks += 1


os.register_at_fork(after_in_child=_Process.forked)


class Home:
    """The process and the thread in which a context was made. `ended`: so has its task."""

    def __init__(self, run: RunInfo) -> None:
        self.run = run
        self.thread = threading.get_ident()
        self.forks = _Process.forks
        self.ended = False

    @property
    def over(self) -> bool:
        """Whether there is nothing to record here any more: the task has ended, or this is a fork of its process."""
        return self.ended or self.forks != _Process.forks

    def misuse(self, call: str, name: str, other: RunInfo | None) -> ContextUseError:
        """Tell what is wrong with a call of the context. `other`: the run that the code is in, if it is not its own."""
        if self.forks != _Process.forks:
            where = "in a process that the task forked"
            advice = "let that process send what it found to the task, which records it"
        elif self.ended:
            where, advice = "after its task ended", "await all that uses the context before the task returns"
        elif other is not None:
            where = f"in run {other.id} of task {other.task!r}: it is the context of run {self.run.id}"
            advice = "use the context that this task was given, or milepost.current()"
        else:
            where = f"in thread {threading.current_thread().name!r}, which is not its own"
            advice = "let the thread return what it found to the task, which records it"
            if _in_loop():
                where += ", or in another event loop"
                advice += "; to an async task's loop, asyncio.run_coroutine_threadsafe passes a call on"
        called = f"ctx.{call}({name!r})" if name else f"ctx.{call}()"
        return ContextUseError(f"{called} can't be used {where}. To do: {advice}")


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Told(Protocol):
    """A context that hears of calls that nobody awaited."""

    def forgot(self, error: NotAwaitedError) -> bool: ...


HOOK: Final = "_warn_unawaited_coroutine"
"""The function of the module `warnings` that Python tells of a coroutine which was dropped before it began."""


def watch_unawaited() -> None:
    """Have contexts hear of those of their coroutines that nobody awaits."""
    before: Callable[[Coroutine[Any, Any, Any]], None] | None = getattr(warnings, HOOK, None)
    if before is None or getattr(before, "of_milepost", False):
        return

    def tell(coro: Coroutine[Any, Any, Any]) -> None:
        frame = getattr(coro, "cr_frame", None)
        if frame is not None and frame.f_code.co_filename.startswith(OWN_CODE):
            told = frame.f_locals
            context = told.get("self")
            if hasattr(context, "forgot") and context.forgot(_not_awaited(frame.f_code.co_name, told)):
                return
        before(coro)

    tell.of_milepost = True  # type: ignore[attr-defined]  # so that it is put there once
    setattr(warnings, HOOK, tell)


def missed_await(error: BaseException) -> NotAwaitedError | None:
    """Tell whether an error comes of a context's coroutine that was taken for its value; it may still be held."""
    if not isinstance(error, (AttributeError, TypeError)) or "'coroutine' object" not in str(error):
        return None
    held = [getattr(error, "obj", None)]
    trace = error.__traceback__
    while trace is not None:
        held += trace.tb_frame.f_locals.values()
        trace = trace.tb_next
    for one in held:
        if (found := unawaited(one)) is not None:
            return found
    return None


def unawaited(value: object) -> NotAwaitedError | None:
    """Tell whether a value is a coroutine of a context that nobody awaited yet; it is closed then."""
    if not isinstance(value, CoroutineType) or getcoroutinestate(value) != CORO_CREATED:
        return None
    frame = value.cr_frame
    if frame is None or not frame.f_code.co_filename.startswith(OWN_CODE):
        return None
    found = _not_awaited(frame.f_code.co_name, frame.f_locals)
    value.close()
    return found


def _not_awaited(method: str, told: dict[str, Any]) -> NotAwaitedError:
    what = "step" if method == "recorded" else method
    first = told.get("name") or told.get("key")
    at = told.get("at")
    return NotAwaitedError(f"ctx.{what}({first!r})" if first else f"ctx.{what}()", str(at or _users_place()))


def _users_place() -> Place:
    """The innermost line that is not ours: that of a call whose coroutine was dropped at once."""
    frame = sys._getframe(1)  # noqa: SLF001
    while frame.f_back is not None and frame.f_code.co_filename.startswith(OWN_CODE):
        frame = frame.f_back
    return Place(frame.f_code, frame.f_lasti)
