"""Plain functions as steps of an async task: each runs in a thread, and is back within tens of microseconds.

asyncio's own way to a thread and back passes a call through two futures, their locks and a wake-up of the event loop:
five times the work, and for a step that does little a tenth of its time. Here the loop itself waits for the thread, but
only for a moment.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Final

MOMENT: Final = 0.0002
"""Seconds that the event loop waits for a function before it turns to other work."""
MOST: Final = min(32, (os.cpu_count() or 1) + 4)
"""Threads, as many as asyncio has; further calls wait for one."""


class _Call:
    __slots__ = ("_work", "ended", "error", "over", "value", "waiter")

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self.value: object = None
        self.error: BaseException | None = None
        self.ended = threading.Lock()
        self.ended.acquire()
        self.waiter: asyncio.Future[None] | None = None
        """Set once the loop has turned to other work: then it wants to be told."""
        self.over = False

    def run(self) -> None:
        try:
            self.value = self._work()
        except BaseException as error:  # noqa: BLE001  # it is raised where the call was made
            self.error = error


class Threads:
    """Those of one event loop, whose thread alone calls `run` and `end`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._ended = False

    async def run(self, fn: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """Call `fn` in a thread, with the context variables of here. Who is cancelled leaves it to its end."""
        if self._ended:  # what is cut off at the end of the task has something left to do
            return await asyncio.to_thread(fn, *args, **kwargs)
        call = _Call(partial(copy_context().run, fn, *args, **kwargs))
        self._busy += 1
        if self._busy > len(self._threads) and len(self._threads) < MOST:
            thread = threading.Thread(target=self._work, name=f"step-{len(self._threads) + 1}", daemon=True)
            thread.start()
            self._threads.append(thread)
        self._calls.put(call)
        at_once = self._busy <= len(self._threads)  # else it waits for a thread
        if not at_once or not call.ended.acquire(timeout=MOMENT):
            call.waiter = self._loop.create_future()
            if not call.ended.acquire(blocking=False):  # it may have ended before it could see who waits
                await call.waiter
        self._over(call)
        if call.error is None:
            return call.value
        error, call.error = call.error, None
        try:
            raise error
        finally:
            del error, call  # its traceback holds this frame and the call's: what it carries is to end with it

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            call.ended.release()
            if call.waiter is not None:
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(self._told, call)
            del call  # an idle thread keeps nothing alive

    def _told(self, call: _Call) -> None:
        self._over(call)
        if call.waiter is not None and not call.waiter.done():
            call.waiter.set_result(None)

    def _over(self, call: _Call) -> None:
        if not call.over:
            call.over = True
            self._busy -= 1

    def end(self) -> None:
        """Let each thread end, those at work when they are done; asyncio waits for these as for its own."""
        if self._ended:
            return
        self._ended = True
        for _ in self._threads:
            self._calls.put(None)
        if self._busy:
            self._loop.run_in_executor(None, self._join)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()
