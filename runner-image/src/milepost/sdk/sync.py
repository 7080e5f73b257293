"""The context of a task that is a plain function: the same as `Context`, blocking."""

from asyncio.exceptions import CancelledError
from collections.abc import Callable
from contextvars import ContextVar
from inspect import iscoroutinefunction
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from milepost.errors import NoRunError
from milepost.net.messages import Reply, compact
from milepost.sdk import chance, local
from milepost.sdk.base import BaseContext
from milepost.sdk.client import BlockingSidecar, step_exists
from milepost.sdk.journal import Journal, StepCall, layout_key, own_key
from milepost.sdk.local import whole_number
from milepost.sdk.run import MISSING, Missing
from milepost.sdk.scope import Scope, scope
from milepost.sdk.signature import returned
from milepost.sdk.waits import Clock, Leave, SyncWaits
from milepost.values import Encoded, unpack
from milepost.wire.values import JSON

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from milepost.sdk.layout import Migrate
    from milepost.sdk.retry import Retry, Tries

R = TypeVar("R")
D = TypeVar("D")


class SyncContext(BaseContext):
    """Given to a plain task as its first parameter; `milepost.current_sync()` gives it anywhere below.

    Use it from the task's own thread. A cancelled run raises CancelledError at the next call of the context.
    """

    def __init__(
        self, journal: Journal, sidecar: BlockingSidecar, leave: Leave | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(journal)
        self._waits = SyncWaits(clock or Clock(), leave)
        self._sidecar = sidecar
        self._cancelled = False

    def load(self) -> None:
        """Read what earlier attempts recorded. (The runner calls it, before the task.)"""
        if self._journal.attempt.records:
            self._sidecar.lines("/v1/records?after=0", self._journal.load)

    def arrive(self, layout: int, migrate: "Migrate | None") -> None:
        """Take over what code of another layout recorded. (The runner calls it, before the task.)"""
        for target in self._journal.all_away(layout):
            self._bring(target)
        if self._journal.arrive(layout, migrate):
            target = local.checkpoint_target(layout_key())
            self._sidecar.call("PUT", target, local.write_headers(), str(layout).encode())

    def cancel(self) -> None:
        """Raise CancelledError at the next call. (The runner calls it, from a signal handler.)"""
        self._cancelled = True
        self._waits.stay()

    def step(
        self,
        name: str,
        fn: Callable[..., R],
        *args: object,
        key: str | None = None,
        retry: "Retry | None" = None,
        **kwargs: object,
    ) -> R:
        """Run `fn(*args, **kwargs)` once in the run: record what it returns, and give that in later attempts.

        When it raises and the task goes on to another record, later attempts are given that error. With `retry` it is
        tried again before it raises.

        Raises:
            NotRecordableError: what it returned can't be recorded; the path says where.
            RecordTooLargeError: what it returned is above the limit.
            ValueMismatchError: it does not fit the annotation of what the function returns.
            ChangedCodeError: the records of the run are of other code; nothing was run.
            StepKeyError: the name or key can't be used.
        """
        return self.recorded(name, fn, args, kwargs, key, returned(fn), retry)

    def recorded(  # noqa: PLR0917
        self,
        name: str,
        fn: Callable[..., R],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        key: str | None,
        annotation: object,
        retry: "Retry | None" = None,
    ) -> R:
        """Run a step whose value is of the type that `annotation` says, as `step` does."""
        self._check_use("step", name)
        if iscoroutinefunction(fn):
            raise TypeError(f"step {name!r} is async: only an async task can have it")
        called = self._journal.call(name, key, fn, args, kwargs)
        own_key = called.key
        if (target := self._journal.step_away(own_key)) is not None:
            self._bring(target)
        found = self._journal.recorded_step(called, annotation)
        if not isinstance(found, Missing):
            return cast("R", found)
        try:
            packed = self._journal.encode(
                self._execute(own_key, fn, args, kwargs, retry), f"the result of step {own_key!r}"
            )
            value = unpack(packed, annotation)  # before it is recorded: what does not fit would not fit in any attempt
        except Exception as error:
            self._journal.step_failed(called, error)
            raise
        reply = self._record(called, packed)
        return cast("R", local.recorded_value(reply, annotation) if reply is not None else value)

    def _execute(
        self,
        key: str,
        fn: Callable[..., R],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        retry: "Retry | None",
    ) -> R:
        if retry is None:
            return self._call(key, fn, args, kwargs)
        from milepost.sdk.again import tried_plain  # noqa: PLC0415  (tasks without retries never pay for it)

        def call() -> R:
            return self._call(key, fn, args, kwargs)

        return tried_plain(key, retry, call, self._journal, self._waits, self._record_tries, self._check_cancelled)

    def _record_tries(self, tries: "Tries") -> None:
        self._record_failures()
        body = compact(tries.record())
        self._sidecar.call("PUT", local.checkpoint_target(tries.key), local.write_headers(), body)

    @staticmethod
    def _call(key: str, fn: Callable[..., R], args: tuple[object, ...], kwargs: dict[str, object]) -> R:
        token = scope.set(Scope.inside(key))
        try:
            return fn(*args, **kwargs)
        finally:
            scope.reset(token)

    def _record(self, called: StepCall, data: Encoded) -> Reply | None:
        self._record_failures()
        target = local.step_target(self._journal.stored(called.key))
        headers = local.write_headers(data.types, fingerprint=called.fingerprint)
        reply = self._sidecar.call("PUT", target, headers, data.text.encode())
        if step_exists(reply):
            return self._sidecar.call("GET", target, [])
        self._journal.step_recorded(called, data.text, data.types)
        return None

    def _record_failures(self) -> None:
        for failure in self._journal.take_failures():
            headers = local.write_headers(failed=True, fingerprint=failure.fingerprint)
            self._sidecar.call(
                "PUT", local.step_target(self._journal.stored(failure.key)), headers, failure.error.encode()
            )
            self._journal.step_recorded(failure, failure.error, failed=True)

    def now(self) -> "datetime":
        """Give the time (UTC) at which this line was first reached in the run: the same in every attempt."""
        return self.step("ctx.now", chance.plain_now)

    def random(self) -> float:
        """Give a random number from 0 up to 1: the same in every attempt."""
        return self.step("ctx.random", chance.plain_random)

    def uuid(self) -> "UUID":
        """Give a random UUID: the same in every attempt."""
        return self.step("ctx.uuid", chance.plain_uuid)

    def checkpoint(self, key: str, data: object) -> int:
        """Save a new version of `data` under `key`; its commit sequence. Raises as `Context.checkpoint` does."""
        self._check_use("checkpoint", key)
        self._journal.check_intact()
        packed = self._journal.encode(data, f"checkpoint {key!r}")
        self._record_failures()
        target = local.checkpoint_target(own_key(key))
        answer = self._sidecar.call("PUT", target, local.write_headers(packed.types), packed.text.encode()).json()
        self._journal.checkpointed(key, packed)
        return whole_number(answer, "seq")

    def _bring(self, target: str) -> None:
        """Fetch a recorded value that is in object storage, now that it is asked for."""
        self._journal.bring(target, self._sidecar.call("GET", target, []).body)

    @overload
    def restore(self, key: str) -> JSON | Missing: ...
    @overload
    def restore(self, key: str, default: None) -> JSON: ...
    @overload
    def restore(self, key: str, default: D) -> D: ...
    @overload
    def restore(self, key: str, default: Missing = MISSING, *, type: type[D]) -> D | Missing: ...
    @overload
    def restore(self, key: str, default: D, *, type: type[D]) -> D: ...
    def restore(self, key: str, default: object = MISSING, *, type: object = Any) -> object:  # noqa: A002
        """Give the newest data checkpointed under `key`; else `default`. As `Context.restore`."""
        self._check_use("restore", key)
        if (target := self._journal.checkpoint_away(key)) is not None:
            self._bring(target)
        found = self._journal.restored(key, type)
        return default if isinstance(found, Missing) else found

    def stream(self, chunk: object) -> int:
        """Tell a part of what comes of the task to who reads the run's stream now. As `Context.stream`."""
        self._check_use("stream")
        self._journal.check_intact()
        body = self._journal.encode_chunk(chunk).text.encode()
        return whole_number(self._sidecar.call("PUT", "/v1/stream", local.write_headers(), body).json(), "position")

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Say how far the work is, from 0 to 1, and what it does."""
        self._check_use("progress")
        body = compact({"fraction": fraction, "message": message})
        self._sidecar.call("PUT", "/v1/progress", local.write_headers(), body)

    def _check_use(self, call: str, name: str = "") -> None:
        mine, other = self._home, _current.get(None)
        if mine.over or get_ident() != mine.thread or (other is not None and other is not self):
            raise mine.misuse(call, name, None if other is None or other is self else other.run)
        self._check_cancelled()

    def _check_cancelled(self) -> None:
        if self._cancelled:
            self._cancelled = False  # once, as in an async task: what cleans up may use the context
            raise CancelledError("the run was cancelled")


_current: ContextVar[SyncContext] = ContextVar("milepost_sync_context")


def current_sync() -> SyncContext:
    """Give the context of the plain task that this code runs in. Raises NoRunError outside of one."""
    found = _current.get(None)
    if found is None:
        raise NoRunError("there is no plain task here: current_sync() works in the code that a task calls")
    return found


def active_sync() -> SyncContext | None:
    """Give the context, or None outside of a plain task."""
    return _current.get(None)


def enter_sync(context: SyncContext) -> None:
    """Make it the current one, at the root of the run. (The runner calls it.)"""
    _current.set(context)
    scope.set(context.root())
