"""What came of a task, as it is settled: the same in a pod and in `milepost.testing`."""

import asyncio
from typing import TypeAlias

from milepost.runner import failure
from milepost.sdk.journal import Journal
from milepost.sdk.task import TaskFunction
from milepost.sdk.use import missed_await, unawaited

Outcome: TypeAlias = tuple[str, bytes]
"""Where to PUT it, and its body."""


def of_value(task: TaskFunction[..., object], journal: Journal, value: object) -> Outcome:
    """The outcome of a task that returned. Raises what `Binding.result` does, and what `Journal.check_intact` does."""
    journal.forgotten = journal.forgotten or unawaited(value)
    journal.check_intact()
    return "/v1/result", task.binding.result(value, *journal.attempt.result_limit).encode()


def of_error(task: TaskFunction[..., object], journal: Journal, error: BaseException, *, cancelled: bool) -> Outcome:
    """The outcome of a task that raised. `cancelled`: its run was asked to end, so a cancellation isn't its own."""
    if isinstance(error, asyncio.CancelledError):
        return "/v1/failure", failure.of_exception(error, "cancelled" if cancelled else "user")
    if (changed := journal.changed) is not None:
        retryable = None if journal.attempt.holds else False
        trace = failure.traceback_of(changed)
        return "/v1/failure", failure.body("changed", type(changed).__name__, str(changed), trace, retryable=retryable)
    if (forgotten := journal.forgotten or missed_await(error)) is not None:
        journal.forgotten = forgotten
        if forgotten is not error:
            forgotten.__cause__ = error  # what it failed with may well come of the call that did nothing
        return "/v1/failure", failure.of_exception(forgotten)
    if isinstance(error, SystemExit):
        return "/v1/failure", failure.body("user", "SystemExit", f"the task called sys.exit({error.code!r})")
    return "/v1/failure", failure.of_exception(error, when=task.retry_when)
