"""Tests of tasks without a cluster: a run in memory, attempt by attempt, with deaths, other code and its own time.

`AsyncTaskRun` is for tests that are coroutines, `TaskRun` for plain ones; both run tasks of both kinds.
"""

from milepost.testing.attempts import Attempt
from milepost.testing.memory import MemorySidecar, StoredRecord
from milepost.testing.points import Point, ProcessDiedError, after, before, unacknowledged
from milepost.testing.runs import AsyncTaskRun, TaskRun

__all__ = [
    "AsyncTaskRun",
    "Attempt",
    "MemorySidecar",
    "Point",
    "ProcessDiedError",
    "StoredRecord",
    "TaskRun",
    "after",
    "before",
    "unacknowledged",
]
