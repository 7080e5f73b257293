"""Where code stands in its run: the branch it runs on, and which steps it has called there.

A step's key is `<branch>/<name>`, from its second call on `<branch>/<name>#2`. The root has no branch; the n-th task
that a branch spawns is `~n`; steps called in the body of a step stand below that step, as `outer>inner`.
"""

import asyncio
from asyncio import Future
from collections.abc import Coroutine, Generator, Iterable
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from typing import Any, TypeVar

from milepost.errors import StepKeyError
from milepost.sdk.fingerprint import function_of
from milepost.wire.wait import MAX_KEY_BYTES

T = TypeVar("T")


@dataclass(slots=True)
class Failure:
    """A step that raised, and the text of its record. `told`: that record is on its way, before any that follows it."""

    key: str
    error: str
    fingerprint: str = ""
    told: bool = False


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

    `failures`: steps that failed, until a record shows that the task went on from them: one of this branch, or of what
    it began afterwards.
    """

    def __init__(
        self, prefix: str = "", function: str = "", parent: "Scope | None" = None, failures: Iterable[Failure] = ()
    ) -> None:
        self.prefix = prefix
        self.function = function
        self.position = 0
        self.failures = list(failures)
        self.branches: Branches = parent.branches if parent is not None else Branches()
        self.step: str = parent.step if parent is not None else ""
        """The key of the step whose body this is within."""
        self.loose: bool = parent.loose if parent is not None else False
        """It goes on from a checkpoint of an earlier attempt: it may have left out steps, and has no order to keep."""
        self._calls: dict[str, int] = {}
        self._spawned = 0
        self._ended: list[tuple[asyncio.Future[Any], Scope]] = []

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
        return Scope(prefix, function, self, self.pending())

    @staticmethod
    def inside(key: str) -> "Scope":
        """Give the scope of the body of a step that is called here and now."""
        here = scope.get(None)
        made = Scope(f"{key}>", failures=() if here is None else here.pending())
        made.step = key
        if here is not None:
            made.branches = here.branches
        return made

    @staticmethod
    def beside(name: str) -> "Scope":
        """Give the scope of code that runs beside the task, such as a hook: its steps have no place in the order of
        the task, and it goes on from none of its failures.
        """
        made = Scope(f"{name}>")
        made.loose = True
        return made

    def ended(self, task: "asyncio.Future[Any]", branch: "Scope") -> None:
        """Keep the failures of a branch that ended: who goes on from it goes on from them."""
        if branch.failures or branch._ended:  # noqa: SLF001  (its own kind)
            self._ended.append((task, branch))

    def take_failures(self) -> list[Failure]:
        """Give, once, the failures that code of this branch went on from."""
        if not self.failures and not self._ended:
            return []
        taken = self.pending()
        self.failures = []
        for failure in taken:
            failure.told = True
        return taken

    def pending(self) -> list[Failure]:
        """Those of this branch and of the branches that it awaited."""
        if self._ended:
            seen = [branch for task, branch in self._ended if _seen(task)]
            self._ended = [(task, branch) for task, branch in self._ended if not _seen(task)]
            for branch in seen:
                self.failures += [one for one in branch.pending() if one not in self.failures]
        if self.failures:
            self.failures = [failure for failure in self.failures if not failure.told]
        return self.failures


def branch_of(key: str) -> str:
    """Give the prefix that is in the key of a step without a key of its own."""
    end = key.rfind(">") + 1
    while key.startswith("~", end) and (slash := key.find("/", end)) >= 0:
        end = slash + 1
    return key[:end]


scope: ContextVar[Scope] = ContextVar("milepost_scope")
spawned: ContextVar["list[asyncio.Future[Any]]"] = ContextVar("milepost_spawned")
"""Where it is set: collects the tasks that are spawned here and below."""


def checked(key: str) -> str:
    """Check a key's length. Raises StepKeyError."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise StepKeyError(f"the key {key!r} is not Unicode text") from None
    if not 1 <= size <= MAX_KEY_BYTES or "\x00" in key:
        raise StepKeyError(f"a key has 1 to {MAX_KEY_BYTES} bytes and no U+0000: {key[:80]!r} has {size}")
    return key


def _seen(task: "asyncio.Future[Any]") -> bool:
    """Whether an ended task's error has been given to anyone: until then nobody can have gone on from it."""
    return task.cancelled() or not getattr(task, "_log_traceback", False)


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
    branch = None if parent is None else parent.branch(function_of(coro))
    if branch is not None:
        own.run(scope.set, branch)
    # options: eager_start, of newer Pythons
    task = asyncio.Task(coro, loop=loop, name=name, context=own, **options)
    if (kept := spawned.get(None)) is not None:
        kept.append(task)
    if parent is not None and branch is not None:
        task.add_done_callback(lambda done: parent.ended(done, branch))
    return task
