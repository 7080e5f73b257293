"""Finds the task: the function that `entrypoint` names, or the only @task of an inline source."""

import sys
import threading
import time
from importlib import import_module
from linecache import cache as line_cache
from types import ModuleType
from typing import Final, Protocol

from milepost.runner.failure import traceback_of
from milepost.runner.log import say
from milepost.sdk.task import TaskFunction

SOURCE_FILE: Final = "<task source>"
INLINE_MODULE: Final = "task"
SLOW_SECONDS: Final = 5.0


class Code(Protocol):
    """What names the code of a task: an attempt does."""

    @property
    def entrypoint(self) -> str | None: ...

    @property
    def source(self) -> str | None: ...


class LoadError(Exception):
    """The task can't be loaded; the message says what to fix."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


def load(code: Code) -> TaskFunction[..., object]:
    """Import the user's code and find the task in it. Raises LoadError."""
    began = time.monotonic()
    try:
        return _load(code)
    finally:
        if (took := time.monotonic() - began) > SLOW_SECONDS:
            say(f"importing the task took {took:.0f} s: each pod waits for that, and is not cancelled meanwhile")


def _load(code: Code) -> TaskFunction[..., object]:
    module_name, _, function = (code.entrypoint or "").rpartition(":")
    try:
        if code.source is not None:
            module = _inline(code.source)
        elif module_name and function:
            module = import_module(module_name)
        else:
            raise LoadError(  # noqa: TRY301
                f"entrypoint {code.entrypoint!r} must be 'package.module:function'"
            )
    except LoadError:
        raise
    except BaseException as error:
        what = "the inline source" if code.source is not None else f"module {module_name!r}"
        detail = f"{what} can't be imported: {type(error).__name__}: {error}"
        raise LoadError(detail, traceback_of(error)) from error
    return named(module, function) if function else _only(module)


def threads_of_import() -> list[str]:
    """Give the names of the threads that the user's code started as it was imported: a fork has none of them."""
    return [one.name for one in threading.enumerate() if one is not threading.main_thread()]


def _inline(source: str) -> ModuleType:
    module = ModuleType(INLINE_MODULE)
    module.__file__ = SOURCE_FILE
    sys.modules[INLINE_MODULE] = module
    # tracebacks show lines of the source, which is in no file
    line_cache[SOURCE_FILE] = (len(source), None, source.splitlines(keepends=True), SOURCE_FILE)
    exec(compile(source, SOURCE_FILE, "exec"), module.__dict__)  # noqa: S102  # running the user's code is our work
    return module


def named(module: ModuleType, function: str) -> TaskFunction[..., object]:
    """The task of a name. Raises LoadError with those that there are."""
    found: object = module
    for part in function.split("."):
        if not hasattr(found, part):
            have = ", ".join(sorted(name for name, _ in tasks_in(module))) or "none"
            raise LoadError(f"module {module.__name__!r} has no {function!r}; its tasks: {have}")
        found = getattr(found, part)
    if not isinstance(found, TaskFunction):
        raise LoadError(f"{module.__name__}:{function} is no task: decorate the function with @milepost.task")
    return found


def _only(module: ModuleType) -> TaskFunction[..., object]:
    found = {id(value): value for _, value in tasks_in(module)}
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        raise LoadError("the inline source has no task: decorate a function with @milepost.task")
    names = ", ".join(name for name, _ in tasks_in(module))
    raise LoadError(f"the inline source has several tasks ({names}): name one as entrypoint 'task:<function>'")


def tasks_in(module: ModuleType) -> list[tuple[str, TaskFunction[..., object]]]:
    """The tasks of a module, by the names they have in it."""
    return [(name, value) for name, value in vars(module).items() if isinstance(value, TaskFunction)]
