"""Tells of steps that were at work when the task returned: nobody awaits them, so they are cut off."""

import asyncio
from collections.abc import Iterator
from types import CodeType
from typing import Final

from milepost.runner.log import say
from milepost.sdk.context import Context

RECORDED: Final = Context.recorded.__code__
MOST_TOLD: Final = 10


def tell_left(own: "asyncio.Task[object] | None") -> None:
    """Say which steps of other tasks of this loop are under way. `own`: the task's, which has ended."""
    left = [at for task in asyncio.all_tasks() if task is not own for at in _steps(task)]
    for name, at in left[:MOST_TOLD]:
        say(
            f"the task ended while step {name!r} was at work: it is cut off and not recorded; await it (called at {at})"
        )


def _steps(task: "asyncio.Task[object]") -> Iterator[tuple[object, object]]:
    """Give names and places of the steps that a task is in."""
    coroutine: object = task.get_coro()
    while isinstance(code := getattr(coroutine, "cr_code", None), CodeType):
        frame = getattr(coroutine, "cr_frame", None)
        if code is RECORDED and frame is not None:
            yield frame.f_locals["name"], frame.f_locals["at"]
            return
        coroutine = getattr(coroutine, "cr_await", None)
