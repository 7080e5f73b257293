"""Queues as code declares them: `milepost manifest` writes their objects."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `limit` runs start in any window of `period_seconds`."""

    limit: int
    period_seconds: int


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of the Task's namespace. Without a limit it is only named, and its object is somebody else's.

    `concurrency`: runs at work at once; `rate`: how often one may start; `key_…`: the same of each concurrency key;
    `max_depth`: new runs are refused while so many wait.
    """

    name: str
    concurrency: int | None = None
    rate: Rate | None = None
    key_concurrency: int | None = None
    key_rate: Rate | None = None
    max_depth: int | None = None
