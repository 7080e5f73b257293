"""The context of an async task: steps, checkpoints, progress, and what it knows of its run."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import ContextVar
from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from milepost.errors import NoRunError
from milepost.net.messages import Reply, compact
from milepost.sdk import chance, local, parallel
from milepost.sdk.base import BaseContext
from milepost.sdk.client import AsyncSidecar, step_exists
from milepost.sdk.journal import Journal, StepCall, layout_key, own_key
from milepost.sdk.local import whole_number
from milepost.sdk.parallel import Settled
from milepost.sdk.progress import ProgressSender
from milepost.sdk.run import MISSING, Missing
from milepost.sdk.scope import Scope, scope
from milepost.sdk.signature import returned
from milepost.sdk.use import Place, called_at, watch_unawaited
from milepost.sdk.waits import AsyncWaits, Clock, Leave
from milepost.values import Encoded, unpack
from milepost.wire.values import JSON

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from milepost.sdk.layout import Migrate
    from milepost.sdk.retry import Retry, Tries
    from milepost.sdk.threads import Threads

R = TypeVar("R")
D = TypeVar("D")
T = TypeVar("T")


class Context(BaseContext):
    """Given to an async task as its first parameter; `milepost.current()` gives it anywhere below."""

    def __init__(
        self, journal: Journal, sidecar: AsyncSidecar, leave: Leave | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(journal)
        self._waits = AsyncWaits(clock or Clock(), leave)
        self._sidecar = sidecar
        self._loop = asyncio.get_running_loop()
        self._progress = ProgressSender(sidecar, self.log)
        self._threads: Threads | None = None

    def _check_use(self, call: str, name: str = "") -> None:
        mine, other = self._home, _current.get(None)
        if mine.over or asyncio.get_running_loop() is not self._loop or (other is not None and other is not self):
            raise mine.misuse(call, name, None if other is None or other is self else other.run)

    async def load(self) -> None:
        """Read what earlier attempts recorded. (The runner calls it, before the task.)"""
        if self._journal.attempt.records:
            await self._sidecar.lines("/v1/records?after=0", self._journal.load)

    async def arrive(self, layout: int, migrate: "Migrate | None") -> None:
        """Take over what code of another layout recorded. (The runner calls it, before the task.)"""
        for target in self._journal.all_away(layout):
            await self._bring(target)
        if self._journal.arrive(layout, migrate):
            target = local.checkpoint_target(layout_key())
            await self._sidecar.call("PUT", target, local.write_headers(), str(layout).encode())

    @overload
    async def step(
        self,
        name: str,
        fn: Callable[..., Awaitable[R]],
        *args: object,
        key: str | None = None,
        retry: "Retry | None" = None,
        **kwargs: object,
    ) -> R: ...
    @overload
    async def step(
        self,
        name: str,
        fn: Callable[..., R],
        *args: object,
        key: str | None = None,
        retry: "Retry | None" = None,
        **kwargs: object,
    ) -> R: ...
    def step(
        self,
        name: str,
        fn: Callable[..., R] | Callable[..., Awaitable[R]],
        *args: object,
        key: str | None = None,
        retry: "Retry | None" = None,
        **kwargs: object,
    ) -> Coroutine[Any, Any, R]:
        """Run `fn(*args, **kwargs)` once in the run: record what it returns, and give that in later attempts.

        A plain function runs in a thread. `key` replaces the key made of branch, name and number of the call. When it
        raises and the task goes on to another record, later attempts are given that error. With `retry` it is tried
        again before it raises.

        Raises:
            NotRecordableError: what it returned can't be recorded; the path says where.
            RecordTooLargeError: what it returned is above the limit.
            ValueMismatchError: it does not fit the annotation of what the function returns.
            ChangedCodeError: the records of the run are of other code; nothing was run.
            StepKeyError: the name or key can't be used.
            ContextUseError: the context can't be used here.
            NotAwaitedError: an earlier call of the context was not awaited.
        """
        return self.recorded(name, fn, args, kwargs, key, returned(fn), retry, called_at(1))

    async def recorded(  # noqa: PLR0917
        self,
        name: str,
        fn: Callable[..., R] | Callable[..., Awaitable[R]],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        key: str | None,
        annotation: object,
        retry: "Retry | None",
        at: Place,  # noqa: ARG002  (read off the frame of a call that nobody awaited)
    ) -> R:
        """Run a step whose value is of the type that `annotation` says, as `step` does. `at`: where it was called."""
        self._check_use("step", name)
        called = self._journal.call(name, key, fn, args, kwargs)
        own_key = called.key
        if (target := self._journal.step_away(own_key)) is not None:
            await self._bring(target)
        found = self._journal.recorded_step(called, annotation)
        if not isinstance(found, Missing):
            return cast("R", found)
        try:
            packed = self._journal.encode(
                await self._execute(own_key, fn, args, kwargs, retry), f"the result of step {own_key!r}"
            )
            value = unpack(packed, annotation)  # before it is recorded: what does not fit would not fit in any attempt
        except Exception as error:
            self._journal.step_failed(called, error)
            raise
        reply = await self._record(called, packed)
        return cast("R", local.recorded_value(reply, annotation) if reply is not None else value)

    async def _execute(
        self,
        key: str,
        fn: Callable[..., R] | Callable[..., Awaitable[R]],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        retry: "Retry | None",
    ) -> object:
        if retry is None:
            return await self._call(key, fn, args, kwargs)
        from milepost.sdk.again import tried  # noqa: PLC0415  (tasks without retries never pay for it)

        def call() -> Awaitable[object]:
            return self._call(key, fn, args, kwargs)

        return await tried(key, retry, call, self._journal, self._waits, self._record_tries)

    async def _record_tries(self, tries: "Tries") -> None:
        await self._record_failures()
        body = compact(tries.record())
        await self._sidecar.call("PUT", local.checkpoint_target(tries.key), local.write_headers(), body)

    async def _call(
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
            value = await self._own_threads().run(fn, args, kwargs)
            return await value if isawaitable(value) else value
        finally:
            scope.reset(token)

    def _own_threads(self) -> "Threads":
        if self._threads is None:
            from milepost.sdk.threads import Threads  # noqa: PLC0415  (tasks of async functions never pay for it)

            self._threads = Threads()
        return self._threads

    def end_threads(self) -> None:
        """Let the threads of its steps end. (The runner calls it, while the loop still runs.)"""
        if self._threads is not None:
            self._threads.end()

    async def _record(self, called: StepCall, data: Encoded) -> Reply | None:
        """Commit it. Another write was first: the answer that tells it, as later attempts will be told."""
        await self._record_failures()
        target = local.step_target(self._journal.stored(called.key))
        headers = local.write_headers(data.types, fingerprint=called.fingerprint)
        reply = await self._sidecar.call("PUT", target, headers, data.text.encode())
        if step_exists(reply):
            return await self._sidecar.call("GET", target, [])
        self._journal.step_recorded(called, data.text, data.types)
        return None

    async def _record_failures(self) -> None:
        for failure in self._journal.take_failures():
            headers = local.write_headers(failed=True, fingerprint=failure.fingerprint)
            await self._sidecar.call(
                "PUT", local.step_target(self._journal.stored(failure.key)), headers, failure.error.encode()
            )
            self._journal.step_recorded(failure, failure.error, failed=True)

    async def now(self) -> "datetime":
        """Give the time (UTC) at which this line was first reached in the run: the same in every attempt."""
        return await self.step("ctx.now", chance.now)

    async def random(self) -> float:
        """Give a random number from 0 up to 1: the same in every attempt."""
        return await self.step("ctx.random", chance.random)

    async def uuid(self) -> "UUID":
        """Give a random UUID: the same in every attempt."""
        return await self.step("ctx.uuid", chance.uuid)

    async def map(self, fn: Callable[[T], Awaitable[R]], items: Iterable[T], *, concurrency: int = 10) -> list[R]:
        """`await fn(item)` for each, at most `concurrency` at once; values in the order of the items.

        Each item is a branch: what its steps recorded is not repeated. The first error ends the others.
        """
        return await parallel.each(fn, items, concurrency)

    async def all_settled(self, *awaitables: Awaitable[R]) -> list[Settled[R]]:
        """Wait for all, whatever fails; their ends in the order given."""
        return await parallel.all_settled(*awaitables)

    async def checkpoint(self, key: str, data: object) -> int:
        """Save a new version of `data` under `key`, outside the order of steps; its commit sequence.

        Raises:
            NotRecordableError: it can't be recorded; the last good checkpoint stays.
            RecordTooLargeError: it is above the limit.
        """
        self._check_use("checkpoint", key)
        self._journal.check_intact()
        packed = self._journal.encode(data, f"checkpoint {key!r}")
        await self._record_failures()
        target = local.checkpoint_target(own_key(key))
        reply = await self._sidecar.call("PUT", target, local.write_headers(packed.types), packed.text.encode())
        self._journal.checkpointed(key, packed)
        return whole_number(reply.json(), "seq")

    async def _bring(self, target: str) -> None:
        """Fetch a recorded value that is in object storage, now that it is asked for."""
        self._journal.bring(target, (await self._sidecar.call("GET", target, [])).body)

    @overload
    async def restore(self, key: str) -> JSON | Missing: ...
    @overload
    async def restore(self, key: str, default: None) -> JSON: ...
    @overload
    async def restore(self, key: str, default: D) -> D: ...
    @overload
    async def restore(self, key: str, default: Missing = MISSING, *, type: type[D]) -> D | Missing: ...
    @overload
    async def restore(self, key: str, default: D, *, type: type[D]) -> D: ...
    async def restore(self, key: str, default: object = MISSING, *, type: object = Any) -> object:  # noqa: A002
        """Give the newest data checkpointed under `key`, by this or an earlier attempt; else `default`.

        To type checkers it is of the default's type: give one of the type that the code checkpoints. With `type` it is
        read as that annotation. Raises ValueMismatchError when it does not fit.
        """
        self._check_use("restore", key)
        if (target := self._journal.checkpoint_away(key)) is not None:
            await self._bring(target)
        found = self._journal.restored(key, type)
        return default if isinstance(found, Missing) else found

    async def stream(self, chunk: object) -> int:
        """Tell a part of what comes of the task to who reads the run's stream now; its position there, from 1.

        It is kept as plain JSON, and not recorded: code that runs again tells it again, with its attempt's number.

        Raises:
            NotRecordableError, RecordTooLargeError: as `checkpoint`.
            StreamFullError: the run has told as much as it may.
        """
        self._check_use("stream")
        self._journal.check_intact()
        body = self._journal.encode_chunk(chunk).text.encode()
        reply = await self._sidecar.call("PUT", "/v1/stream", local.write_headers(), body)
        return whole_number(reply.json(), "position")

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Say how far the work is, from 0 to 1, and what it does. Costs nothing: passed on in the background."""
        self._progress.tell(fraction, message)


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
    watch_unawaited()
    _current.set(context)
    scope.set(context.root())
