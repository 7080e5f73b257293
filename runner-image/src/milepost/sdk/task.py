"""`@task`: the function that a run executes."""

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import TYPE_CHECKING, Final, Generic, ParamSpec, TypeAlias, TypeVar, overload

from milepost.sdk.binding import Binding
from milepost.sdk.queue import Queue
from milepost.wire.values import JSON

if TYPE_CHECKING:
    from milepost.sdk.layout import Migrate

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H", bound=Callable[..., object])
Hook: TypeAlias = Callable[..., object]
Body: TypeAlias = Callable[[], object]
When: TypeAlias = Callable[[Exception], bool | float | timedelta | None]
ID: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class Hooks:
    """What runs around a task, in the order in which it was added; the first middleware is the outermost."""

    def __init__(self) -> None:
        self.middleware: list[Hook] = []
        self.start: list[Hook] = []
        self.resume: list[Hook] = []
        self.success: list[Hook] = []
        self.failure: list[Hook] = []

    def __bool__(self) -> bool:
        return bool(self.middleware or self.start or self.resume or self.success or self.failure)


class TaskFunction(Generic[P, R]):
    """A task. Calling it calls the function itself, as tests of it like to do: without hooks and middleware."""

    def __init__(  # noqa: PLR0917  (the options of the decorator)
        self,
        fn: Callable[P, R],
        id: str,  # noqa: A002  # the option's name
        middleware: Sequence[Hook] = (),
        retry_when: When | None = None,
        queue: Queue | str | None = None,
        layout: int = 1,
        migrate: "Migrate | None" = None,
    ) -> None:
        if not ID.fullmatch(id):
            raise ValueError(f"{id!r} can't be a task's id: lower case letters, digits, '-' and '.', at most 253")
        if isgeneratorfunction(fn) or isasyncgenfunction(fn):
            raise TypeError(f"{fn.__name__} is a generator: a task returns its result, and ctx.stream() tells of parts")
        if type(layout) is not int or layout < 1:
            raise ValueError(f"layout={layout!r}: the layout of a task's records is a whole number, 1 or more")
        if migrate is not None and iscoroutinefunction(migrate):
            raise TypeError("migrate= is a plain function: it works on what is recorded, and calls nobody")
        self.fn = fn
        self.id = id
        self.layout = layout
        self.migrate = migrate
        self.queue = Queue(queue) if isinstance(queue, str) else queue
        self.is_async = iscoroutinefunction(fn)
        self.hooks = Hooks()
        self.retry_when = retry_when
        self.__name__ = fn.__name__
        self.__doc__ = fn.__doc__
        self.binding = Binding(fn, fn.__name__)
        for layer in middleware:
            self.middleware(layer)

    def middleware(self, fn: H) -> H:
        """Run `fn(ctx, call)` around each attempt; it calls `call()`, awaited in an async task, and gives its value."""
        return self._hooked(self.hooks.middleware, fn)

    def on_start(self, fn: H) -> H:
        """Run `fn(ctx)` before the task, once in the run: recorded as a step."""
        return self._hooked(self.hooks.start, fn)

    def on_resume(self, fn: H) -> H:
        """Run `fn(ctx)` before the task in each attempt but the first."""
        return self._hooked(self.hooks.resume, fn)

    def on_success(self, fn: H) -> H:
        """Run `fn(ctx, result)` after the task, once in the run: recorded as a step. Raising fails the attempt."""
        return self._hooked(self.hooks.success, fn)

    def on_failure(self, fn: H) -> H:
        """Run `fn(ctx, error)` when the task raised and no attempt is left, or none would help."""
        return self._hooked(self.hooks.failure, fn)

    def _hooked(self, kind: list[Hook], fn: H) -> H:
        if iscoroutinefunction(fn) and not self.is_async:
            raise TypeError(f"{getattr(fn, '__name__', fn)!r} is async: only an async task can have it around")
        kind.append(fn)
        return fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.fn(*args, **kwargs)

    def bind(self, context: object, data: JSON) -> Callable[[], object]:
        """Make the call for a run's input.

        One parameter without a default gets the input as it is, unless its annotation says that it takes no object.
        Else the members of the input are passed by name, and null or an empty object passes nothing; an input that is
        no object goes to the first parameter. Each argument becomes what its annotation says.

        Raises:
            FatalError: the input does not fit, and no other attempt would change that.
        """
        return self.binding.bind(context, data)


@overload
def task(fn: Callable[P, R], /) -> TaskFunction[P, R]: ...
@overload
def task(
    *,
    id: str | None = None,
    middleware: Sequence[Hook] = (),
    retry_when: When | None = None,
    queue: Queue | str | None = None,
    layout: int = 1,
    migrate: "Migrate | None" = None,
) -> Callable[[Callable[P, R]], TaskFunction[P, R]]: ...
def task(
    fn: Callable[..., object] | None = None,
    /,
    *,
    id: str | None = None,  # noqa: A002
    middleware: Sequence[Hook] = (),
    retry_when: When | None = None,
    queue: Queue | str | None = None,
    layout: int = 1,
    migrate: "Migrate | None" = None,
) -> object:
    """Make a function a task. `id` is the name of its Task object; by default the function's, with '-' for '_'.

    A first parameter that is named `ctx`, or annotated `Context` or `SyncContext`, gets the context of the run.
    `middleware` runs around it (see `TaskFunction.middleware`). `retry_when(error)` decides whether another attempt
    helps: True or False, seconds or a timedelta to wait at least, None for Milepost's own verdict.
    `queue` is what `milepost manifest` writes into the Task: the name of a Queue, or one with its limits.
    `layout` grows when the task records otherwise than before; `migrate(recorded, since)` then changes what a run has
    of an older layout (`Recorded`) into what this code would have recorded.
    """

    def decorate(function: Callable[..., object]) -> TaskFunction[..., object]:
        own = id or function.__name__.strip("_").replace("_", "-").lower()
        return TaskFunction(function, own, middleware, retry_when, queue, layout, migrate)

    return decorate if fn is None else decorate(fn)
