"""The context of an async task: steps, checkpoints, progress, and what it knows of its run."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from inspect import isawaitable, iscoroutinefunction
from typing import Final, TypeVar, cast, overload

from milepost.errors import MilepostError, NoRunError
from milepost.net.messages import compact
from milepost.sdk import local
from milepost.sdk.client import AsyncSidecar, step_exists
from milepost.sdk.journal import Journal
from milepost.sdk.run import MISSING, Missing, RunInfo
from milepost.sdk.scope import Scope, checked, scope
from milepost.values import decode
from milepost.wire.values import JSON

R = TypeVar("R")
D = TypeVar("D")
logger: Final = logging.getLogger("milepost.task")


class Context:
    """Given to an async task as its first parameter; `milepost.current()` gives it anywhere below."""

    def __init__(self, journal: Journal, sidecar: AsyncSidecar) -> None:
        self._journal = journal
        self._sidecar = sidecar
        self._loop = asyncio.get_running_loop()
        self._progress: bytes | None = None
        self._progress_sender: asyncio.Task[None] | None = None
        self.run: RunInfo = journal.attempt.run
        self.log: logging.LoggerAdapter[logging.Logger] = logging.LoggerAdapter(
            logger, {"run": self.run.id, "attempt": self.run.attempt}
        )

    async def load(self) -> None:
        """Read what earlier attempts recorded. (The runner calls it, before the task.)"""
        if self._journal.attempt.records:
            await self._sidecar.lines("/v1/records?after=0", self._journal.load)

    @overload
    async def step(
        self, name: str, fn: Callable[..., Awaitable[R]], *args: object, key: str | None = None, **kwargs: object
    ) -> R: ...
    @overload
    async def step(
        self, name: str, fn: Callable[..., R], *args: object, key: str | None = None, **kwargs: object
    ) -> R: ...
    async def step(
        self,
        name: str,
        fn: Callable[..., R] | Callable[..., Awaitable[R]],
        *args: object,
        key: str | None = None,
        **kwargs: object,
    ) -> R:
        """Run `fn(*args, **kwargs)` once in the run: record what it returns, and give that in later attempts.

        A plain function runs in a thread. `key` replaces the key made of branch, name and number of the call. When it
        raises and the task goes on to another record, later attempts are given that error.

        Raises:
            NotRecordableError: what it returned is not JSON; the path says where.
            RecordTooLargeError: what it returned is above the limit.
            StepKeyError: the name or key can't be used.
        """
        own_key = self._journal.step_key(name, key)
        found = self._journal.recorded_step(own_key)
        if found is MISSING:
            try:
                value = await self._execute(own_key, fn, args, kwargs)
                text = self._journal.encode(value, f"the result of step {own_key!r}")
            except Exception as error:
                self._journal.step_failed(own_key, error)
                raise
            found = await self._record(own_key, text)
        return cast("R", found)

    async def _execute(
        self,
        key: str,
        fn: Callable[..., R] | Callable[..., Awaitable[R]],
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        token = scope.set(Scope.inside(key))
        try:
            if iscoroutinefunction(fn):
                return await fn(*args, **kwargs)
            value = await asyncio.to_thread(fn, *args, **kwargs)
            return await value if isawaitable(value) else value
        finally:
            scope.reset(token)

    async def _record(self, key: str, text: str) -> JSON:
        await self._record_failures()
        target = local.step_target(key)
        reply = await self._sidecar.call("PUT", target, local.write_headers(), text.encode())
        if not step_exists(reply):
            return decode(text)
        # first write wins: give what every later attempt will be given
        return local.recorded_value(await self._sidecar.call("GET", target, []))

    async def _record_failures(self) -> None:
        for key, error in self._journal.take_failures():
            await self._sidecar.call("PUT", local.step_target(key), local.write_headers(failed=True), error.encode())

    async def checkpoint(self, key: str, data: object) -> int:
        """Save a new version of `data` under `key`, outside the order of steps; its commit sequence.

        Raises:
            NotRecordableError: it is not JSON; the last good checkpoint stays.
            RecordTooLargeError: it is above the limit.
        """
        text = self._journal.encode(data, f"checkpoint {key!r}")
        await self._record_failures()
        target = local.checkpoint_target(checked(key))
        reply = await self._sidecar.call("PUT", target, local.write_headers(), text.encode())
        self._journal.checkpointed(key, text)
        return _seq(reply.json())

    @overload
    async def restore(self, key: str) -> JSON | Missing: ...
    @overload
    async def restore(self, key: str, default: None) -> JSON: ...
    @overload
    async def restore(self, key: str, default: D) -> D: ...
    async def restore(self, key: str, default: object = MISSING) -> object:
        """Give the newest data checkpointed under `key`, by this or an earlier attempt; else `default`.

        It is typed as the default: give one of the type that the code checkpoints.
        """
        found = self._journal.restored(key)
        return default if isinstance(found, Missing) else found

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Say how far the work is, from 0 to 1, and what it does. Costs nothing: passed on in the background."""
        self._progress = compact({"fraction": fraction, "message": message})
        self._loop.call_soon_threadsafe(self._send_progress)

    def _send_progress(self) -> None:
        if self._progress_sender is None or self._progress_sender.done():
            # not by the loop's factory: it is no branch of the task
            self._progress_sender = asyncio.Task(self._pass_on_progress(), loop=self._loop)

    async def _pass_on_progress(self) -> None:
        while (body := self._progress) is not None:
            self._progress = None
            try:
                await self._sidecar.call("PUT", "/v1/progress", local.write_headers(), body)
            except MilepostError as error:
                self.log.warning("progress was not passed on: %s", error)


_current: ContextVar[Context] = ContextVar("milepost_context")


def current() -> Context:
    """Give the context of the async task that this code runs in. Raises NoRunError outside of one."""
    found = _current.get(None)
    if found is None:
        raise NoRunError("there is no async task here: current() works in the code that a task calls")
    return found


def active() -> Context | None:
    """Give the context, or None outside of an async task."""
    return _current.get(None)


def enter(context: Context) -> None:
    """Make it the current one, at the root of the run. (The runner calls it.)"""
    _current.set(context)
    scope.set(Scope())


def _seq(answer: JSON) -> int:
    if isinstance(answer, dict) and isinstance(seq := answer.get("seq"), int):
        return seq
    raise MilepostError(f"the sidecar answered without a commit sequence: {answer}")
