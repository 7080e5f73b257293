"""`@task`: the function that a run executes."""

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from inspect import Parameter, iscoroutinefunction, signature
from types import GenericAlias
from typing import Final, Generic, ParamSpec, TypeAlias, TypeVar, overload

from milepost.errors import FatalError
from milepost.wire.values import JSON

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H", bound=Callable[..., object])
Hook: TypeAlias = Callable[..., object]
Body: TypeAlias = Callable[[], object]
When: TypeAlias = Callable[[Exception], bool | float | timedelta | None]
ID: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
CONTEXTS: Final = frozenset({"Context", "SyncContext"})
NO_OBJECTS: Final = frozenset({"str", "int", "float", "bool", "list", "tuple", "set", "None", "NoneType"})
"""Annotations of parameters that can't mean to take an object."""


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

    def __init__(
        self,
        fn: Callable[P, R],
        id: str,  # noqa: A002  # the option's name
        middleware: Sequence[Hook] = (),
        retry_when: When | None = None,
    ) -> None:
        if not ID.fullmatch(id):
            raise ValueError(f"{id!r} can't be a task's id: lower case letters, digits, '-' and '.', at most 253")
        self.fn = fn
        self.id = id
        self.is_async = iscoroutinefunction(fn)
        self.hooks = Hooks()
        self.retry_when = retry_when
        self.__name__ = fn.__name__
        self.__doc__ = fn.__doc__
        self._parameters = list(signature(fn).parameters.values())
        self._takes_context = bool(self._parameters) and _is_context(self._parameters[0])
        if self._takes_context:
            self._parameters.pop(0)
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
        no object goes to the first parameter.

        Raises:
            FatalError: the input does not fit, and no other attempt would change that.
        """
        args: list[object] = [context] if self._takes_context else []
        kwargs: dict[str, object] = {}
        if isinstance(data, dict) and not self._takes_objects():
            kwargs.update(data)
        elif data is not None or (len(self._parameters) == 1 and _is_required(self._parameters[0])):
            args.append(data)
        try:
            bound = signature(self.fn).bind(*args, **kwargs)
        except TypeError as error:
            raise FatalError(f"the input does not fit {self.__name__}{signature(self.fn)}: {error}") from None
        fn: Callable[..., object] = self.fn
        return lambda: fn(*bound.args, **bound.kwargs)

    def _takes_objects(self) -> bool:
        """Whether an object that is the input is one argument, rather than the arguments by name."""
        if len(self._parameters) != 1 or not _is_required(self._parameters[0]):
            return False
        annotation = self._parameters[0].annotation
        if annotation is Parameter.empty:
            return True
        plain = isinstance(annotation, type) and not isinstance(annotation, GenericAlias)
        text = annotation.__name__ if plain else str(annotation)
        return not all(one.strip() in NO_OBJECTS for one in _outside_brackets(text).split("|"))


@overload
def task(fn: Callable[P, R], /) -> TaskFunction[P, R]: ...
@overload
def task(
    *, id: str | None = None, middleware: Sequence[Hook] = (), retry_when: When | None = None
) -> Callable[[Callable[P, R]], TaskFunction[P, R]]: ...
def task(
    fn: Callable[..., object] | None = None,
    /,
    *,
    id: str | None = None,  # noqa: A002
    middleware: Sequence[Hook] = (),
    retry_when: When | None = None,
) -> object:
    """Make a function a task. `id` is the name of its Task object; by default the function's, with '-' for '_'.

    A first parameter that is named `ctx`, or annotated `Context` or `SyncContext`, gets the context of the run.
    `middleware` runs around it (see `TaskFunction.middleware`). `retry_when(error)` decides whether another attempt
    helps: True or False, seconds or a timedelta to wait at least, None for Milepost's own verdict.
    """

    def decorate(function: Callable[..., object]) -> TaskFunction[..., object]:
        own = id or function.__name__.strip("_").replace("_", "-").lower()
        return TaskFunction(function, own, middleware, retry_when)

    return decorate if fn is None else decorate(fn)


def _is_context(parameter: Parameter) -> bool:
    annotation = parameter.annotation
    name = annotation.rpartition(".")[2] if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return parameter.name == "ctx" or name in CONTEXTS


def _is_required(parameter: Parameter) -> bool:
    by_position = parameter.kind in {Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD}
    return by_position and parameter.default is Parameter.empty


def _outside_brackets(annotation: str) -> str:
    """`list[int | str] | None` is `list | None`."""
    depth, kept = 0, ""
    for letter in annotation:
        depth += (letter == "[") - (letter == "]")
        kept += letter if depth == 0 and letter != "]" else ""
    return kept
