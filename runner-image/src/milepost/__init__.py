"""Milepost for authors of tasks: the SDK, the runner and the sidecar.

Names are imported when they are first used: the sidecar and the runner's parent never pay for the SDK.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from milepost.errors import (
        ChangedCodeError,
        ContextUseError,
        FatalError,
        FencedError,
        MilepostError,
        NoRunError,
        NotAwaitedError,
        NotRecordableError,
        ObjectStorageError,
        RecordTooLargeError,
        RunLimitError,
        SidecarLostError,
        StepFailedError,
        StepKeyError,
        StreamFullError,
        ValueMismatchError,
    )
    from milepost.sdk.context import Context, current
    from milepost.sdk.fingerprint import Volatile
    from milepost.sdk.layout import Recorded
    from milepost.sdk.parallel import Settled
    from milepost.sdk.queue import Queue, Rate
    from milepost.sdk.retry import Retry
    from milepost.sdk.run import MISSING, Missing, RunInfo
    from milepost.sdk.step import step
    from milepost.sdk.sync import SyncContext, current_sync
    from milepost.sdk.task import TaskFunction, task

__all__ = [
    "MISSING",
    "ChangedCodeError",
    "Context",
    "ContextUseError",
    "FatalError",
    "FencedError",
    "MilepostError",
    "Missing",
    "NoRunError",
    "NotAwaitedError",
    "NotRecordableError",
    "ObjectStorageError",
    "Queue",
    "Rate",
    "RecordTooLargeError",
    "Recorded",
    "Retry",
    "RunInfo",
    "RunLimitError",
    "Settled",
    "SidecarLostError",
    "StepFailedError",
    "StepKeyError",
    "StreamFullError",
    "SyncContext",
    "TaskFunction",
    "ValueMismatchError",
    "Volatile",
    "current",
    "current_sync",
    "step",
    "task",
]

_HOMES = {
    "Context": "sdk.context",
    "Volatile": "sdk.fingerprint",
    "current": "sdk.context",
    "MISSING": "sdk.run",
    "Missing": "sdk.run",
    "Queue": "sdk.queue",
    "Rate": "sdk.queue",
    "Recorded": "sdk.layout",
    "Retry": "sdk.retry",
    "RunInfo": "sdk.run",
    "Settled": "sdk.parallel",
    "step": "sdk.step",
    "SyncContext": "sdk.sync",
    "current_sync": "sdk.sync",
    "TaskFunction": "sdk.task",
    "task": "sdk.task",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'milepost' has no attribute {name!r}")
    value: object = getattr(import_module(f"milepost.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
