"""Where code stands in its run: the branch it runs on, and which steps it has called there.

A step's key is `<branch>/<name>`, from its second call on `<branch>/<name>#2`. The root has no branch; the n-th task
that a branch spawns is `~n`; steps called in the body of a step stand below that step, as `outer>inner`.
"""

import asyncio
from asyncio import Future
from collections.abc import Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import NamedTuple, TypeVar

from milepost.errors import StepKeyError
from milepost.sdk.fingerprint import function_of
from milepost.wire.pod import MAX_KEY_BYTES

T = TypeVar("T")


class Failure(NamedTuple):
    """A step that failed. `error`: JSON text."""

    key: str
    error: str
    fingerprint: str


class Branches:
    """The branches of a run: the functions they ran when they were recorded, by prefix, and the first that differs."""

    def __init__(self) -> None:
        self.recorded: dict[str, str] = {}
        self.differs: tuple[str, str, str] | None = None
        """Its prefix, the function that was recorded and the one that was found."""

    def check(self, prefix: str, function: str) -> None:
        """Look whether a branch is the one that was recorded."""
        recorded = self.recorded.get(prefix)
        if recorded is not None and recorded != function and self.differs is None:
            self.differs = prefix, recorded, function


class Scope:
    """One branch. `position`: of the newest step in its order; `function`: what the branch runs, of user code.

    `failures`: steps that failed, until the next record of the branch shows that the task went on from them.
    """

    def __init__(self, prefix: str = "", function: str = "", parent: "Scope | None" = None) -> None:
        self.prefix = prefix
        self.function = function
        self.position = 0
        self.failures: list[Failure] = []
        self.branches: Branches = parent.branches if parent is not None else Branches()
        self.step: str = parent.step if parent is not None else ""
        """The key of the step whose body this is within."""
        self.loose: bool = parent.loose if parent is not None else False
        """It goes on from a checkpoint of an earlier attempt: it may have left out steps, and has no order to keep."""
        self._parent = parent
        self._task: asyncio.Task[object] | None = None
        self._failing: list[Scope] = []
        self._calls: dict[str, int] = {}
        self._spawned = 0

    def key(self, name: str) -> str:
        """Give the key of the next step with this name, and pass on to its position. Raises StepKeyError."""
        if not name or name[0] == "~" or "#" in name or ">" in name:
            raise StepKeyError(f"{name!r} can't be a step's name: not empty, no leading '~', no '#', no '>'")
        calls = self._calls[name] = self._calls.get(name, 0) + 1
        key = checked(f"{self.prefix}{name}" if calls == 1 else f"{self.prefix}{name}#{calls}")
        self.position += 1
        return key

    def branch(self, function: str = "") -> "Scope":
        """Give the scope of the next task spawned here."""
        self._spawned += 1
        prefix = f"{self.prefix}~{self._spawned}/"
        if not self.loose:
            self.branches.check(prefix, function)
        return Scope(prefix, function, self)

    @staticmethod
    def inside(key: str) -> "Scope":
        """Give the scope of the body of a step that is called here and now."""
        made = Scope(f"{key}>")
        made.step = key
        if (here := scope.get(None)) is not None:
            made.branches = here.branches
        return made

    def failed(self, failure: Failure) -> None:
        """Remember a step of this branch that failed."""
        self.failures.append(failure)
        if self._parent is not None and self not in self._parent._failing:  # noqa: SLF001  (its own kind)
            self._task = asyncio.current_task()
            self._parent._failing.append(self)  # noqa: SLF001

    def take_failures(self) -> list[Failure]:
        """Give those the task went on from: its own, and those of branches that ended and whose end was looked at."""
        taken, self.failures = self.failures, []
        for child in [one for one in self._failing if one._over()]:  # noqa: SLF001
            self._failing.remove(child)
            taken += child.take_failures()
        return taken

    def _over(self) -> bool:
        # a task keeps its error marked until somebody asks for it
        return self._task is None or (self._task.done() and not getattr(self._task, "_log_traceback", False))


def branch_of(key: str) -> str:
    """Give the prefix that is in the key of a step without a key of its own."""
    end = key.rfind(">") + 1
    while key.startswith("~", end) and (slash := key.find("/", end)) >= 0:
        end = slash + 1
    return key[:end]


scope: ContextVar[Scope] = ContextVar("milepost_scope")


def checked(key: str) -> str:
    """Check a key's length. Raises StepKeyError."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise StepKeyError(f"the key {key!r} is not Unicode text") from None
    if not 1 <= size <= MAX_KEY_BYTES or "\x00" in key:
        raise StepKeyError(f"a key has 1 to {MAX_KEY_BYTES} bytes and no U+0000: {key[:80]!r} has {size}")
    return key


def spawn(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Future[object] | None, None, T] | Generator[Future[object] | None, None, T],
    *,
    name: str | None = None,
    context: Context | None = None,
    **options: bool,
) -> asyncio.Future[T]:
    """Task factory: a task spawned in a run gets a branch of its own, by spawn order."""
    parent = scope.get(None)
    own = context if context is not None else copy_context()
    if parent is not None:
        own.run(scope.set, parent.branch(function_of(coro)))
    # options: eager_start, of newer Pythons
    return asyncio.Task(coro, loop=loop, name=name, context=own, **options)
