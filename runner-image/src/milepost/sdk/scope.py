"""Where code stands in its run: the branch it runs on, and how many steps of each name it has called there.

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
from milepost.wire.pod import MAX_KEY_BYTES

T = TypeVar("T")


@dataclass(slots=True)
class Failure:
    """A step that raised, and the text of its record. `told`: that record is on its way, before any that follows it."""

    key: str
    error: str
    told: bool = False


class Scope:
    """One branch. `order`: the keys of its steps as they were called; `failures`: those that failed, until a record
    shows that the task went on from them: one of this branch, or of what it began afterwards.
    """

    def __init__(self, prefix: str = "", failures: Iterable[Failure] = ()) -> None:
        self.prefix = prefix
        self.order: list[str] = []
        self.failures = list(failures)
        self._calls: dict[str, int] = {}
        self._spawned = 0
        self._ended: list[tuple[asyncio.Future[Any], Scope]] = []

    def key(self, name: str) -> str:
        """Give the key of the next step with this name. Raises StepKeyError."""
        if not name or name[0] == "~" or "#" in name or ">" in name:
            raise StepKeyError(f"{name!r} can't be a step's name: not empty, no leading '~', no '#', no '>'")
        calls = self._calls[name] = self._calls.get(name, 0) + 1
        key = f"{self.prefix}{name}" if calls == 1 else f"{self.prefix}{name}#{calls}"
        return self.note(checked(key))

    def note(self, key: str) -> str:
        """Remember that the step was called here."""
        self.order.append(key)
        return key

    def branch(self) -> "Scope":
        """Give the scope of the next task spawned here."""
        self._spawned += 1
        return Scope(f"{self.prefix}~{self._spawned}/", self.pending())

    @staticmethod
    def inside(key: str) -> "Scope":
        """Give the scope of the body of a step that is called here."""
        here = scope.get(None)
        return Scope(f"{key}>", here.pending() if here is not None else ())

    def ended(self, task: "asyncio.Future[Any]", branch: "Scope") -> None:
        """Keep the failures of a branch that ended: who goes on from it goes on from them."""
        if branch.failures or branch._ended:  # noqa: SLF001  (its own kind)
            self._ended.append((task, branch))

    def take_failures(self) -> list[tuple[str, str]]:
        """Give, once, key and error of the failures that code of this branch went on from."""
        if not self.failures and not self._ended:
            return []
        taken = self.pending()
        self.failures = []
        for failure in taken:
            failure.told = True
        return [(failure.key, failure.error) for failure in taken]

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
    branch = None if parent is None else parent.branch()
    if branch is not None:
        own.run(scope.set, branch)
    # options: eager_start, of newer Pythons
    task = asyncio.Task(coro, loop=loop, name=name, context=own, **options)
    if parent is not None and branch is not None:
        task.add_done_callback(lambda done: parent.ended(done, branch))
    return task
