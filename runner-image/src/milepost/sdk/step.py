"""`@step`: a function whose result is recorded at each call of it in a task."""

from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import isasyncgenfunction, isgeneratorfunction
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar, overload

from milepost.sdk.context import active
from milepost.sdk.signature import returned
from milepost.sdk.sync import active_sync
from milepost.sdk.use import called_at

if TYPE_CHECKING:
    from milepost.sdk.retry import Retry

P = ParamSpec("P")
R = TypeVar("R")


class StepDecorator(Protocol):
    """What `@step(...)` with arguments gives."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[object, None, R]], /) -> Callable[P, Coroutine[object, None, R]]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Callable[P, Coroutine[object, None, R]]: ...


@overload
def step(fn: Callable[P, Coroutine[object, None, R]], /) -> Callable[P, Coroutine[object, None, R]]: ...
@overload
def step(fn: Callable[P, R], /) -> Callable[P, Coroutine[object, None, R]]: ...
@overload
def step(
    *, name: str | None = None, key: Callable[..., str] | None = None, retry: "Retry | None" = None
) -> StepDecorator: ...
def step(
    fn: Callable[..., object] | None = None,
    /,
    *,
    name: str | None = None,
    key: Callable[..., str] | None = None,
    retry: "Retry | None" = None,
) -> object:
    """Make each call of a function in a task a step named after it. Outside of a run it is the plain function.

    In an async task every call is awaited; a plain function then runs in a thread. In a plain task the call gives the
    value at once. `key` makes the step's key from the arguments, in place of name and number of the call.
    `retry` tries it again when it raises.
    """
    if retry is not None:
        from milepost.sdk.retry import checked  # noqa: PLC0415  (tasks without retries never pay for it)

        checked(retry)

    def decorate(function: Callable[..., object]) -> object:
        return _wrap(function, name or function.__name__, key, retry)

    return decorate if fn is None else decorate(fn)


def _wrap(
    fn: Callable[..., object], name: str, key: Callable[..., str] | None, retry: "Retry | None"
) -> Callable[..., object]:
    if isgeneratorfunction(fn) or isasyncgenfunction(fn):
        raise TypeError(f"{fn.__name__} is a generator, which can't be recorded: let the step return a list")

    @wraps(fn)
    def call(*args: object, **kwargs: object) -> object:
        own_key = None if key is None else key(*args, **kwargs)
        if (context := active()) is not None:
            return context.recorded(name, fn, args, kwargs, own_key, returned(fn), retry, called_at(1))
        if (blocking := active_sync()) is not None:
            return blocking.recorded(name, fn, args, kwargs, own_key, returned(fn), retry)
        return fn(*args, **kwargs)

    return call
