"""`@task`: the function that a run executes."""

import re
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Final, Generic, ParamSpec, TypeVar, overload

from milepost.sdk.binding import Binding
from milepost.sdk.queue import Queue
from milepost.wire.values import JSON

P = ParamSpec("P")
R = TypeVar("R")
ID: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class TaskFunction(Generic[P, R]):
    """A task. Calling it calls the function itself, as tests of it like to do."""

    def __init__(
        self,
        fn: Callable[P, R],
        id: str,  # noqa: A002  # the option's name
        queue: Queue | str | None = None,
    ) -> None:
        if not ID.fullmatch(id):
            raise ValueError(f"{id!r} can't be a task's id: lower case letters, digits, '-' and '.', at most 253")
        self.fn = fn
        self.id = id
        self.queue = Queue(queue) if isinstance(queue, str) else queue
        self.is_async = iscoroutinefunction(fn)
        self.__name__ = fn.__name__
        self.__doc__ = fn.__doc__
        self.binding = Binding(fn, fn.__name__)

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
    *, id: str | None = None, queue: Queue | str | None = None
) -> Callable[[Callable[P, R]], TaskFunction[P, R]]: ...
def task(
    fn: Callable[..., object] | None = None,
    /,
    *,
    id: str | None = None,  # noqa: A002
    queue: Queue | str | None = None,
) -> object:
    """Make a function a task. `id` is the name of its Task object; by default the function's, with '-' for '_'.

    A first parameter that is named `ctx`, or annotated `Context` or `SyncContext`, gets the context of the run.
    `queue` is what `milepost manifest` writes into the Task: the name of a Queue, or one with its limits.
    """

    def decorate(function: Callable[..., object]) -> TaskFunction[..., object]:
        own = id or function.__name__.strip("_").replace("_", "-").lower()
        return TaskFunction(function, own, queue)

    return decorate if fn is None else decorate(fn)
