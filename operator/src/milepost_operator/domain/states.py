"""The states of a run, and which changes of state there are: the one table that SQL, CRDs and docs agree with."""

from enum import StrEnum
from typing import Final


class RunState(StrEnum):
    """`held` waits for something outside (a missing task or queue, a decision on code that changed); `admitted` has a
    slot but no pod at work yet.
    """

    DELAYED = "delayed"
    QUEUED = "queued"
    ADMITTED = "admitted"
    RUNNING = "running"
    SUSPENDED = "suspended"
    BACKOFF = "backoff"
    HELD = "held"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timedOut"
    EXPIRED = "expired"


TERMINAL: Final = frozenset(
    {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.TIMED_OUT, RunState.EXPIRED},
)
HOLDS_SLOT: Final = frozenset({RunState.ADMITTED, RunState.RUNNING, RunState.CANCELLING})

_WAITING: Final = frozenset({RunState.DELAYED, RunState.QUEUED, RunState.BACKOFF, RunState.HELD, RunState.SUSPENDED})
_ENDS_WAITING: Final = frozenset({RunState.CANCELLED, RunState.EXPIRED, RunState.TIMED_OUT})
_AFTER_ATTEMPT: Final = frozenset(
    {RunState.SUCCEEDED, RunState.FAILED, RunState.TIMED_OUT, RunState.BACKOFF, RunState.QUEUED, RunState.CANCELLED},
)

TRANSITIONS: Final[dict[RunState, frozenset[RunState]]] = {
    RunState.DELAYED: frozenset({RunState.QUEUED, RunState.HELD}) | _ENDS_WAITING,
    RunState.QUEUED: frozenset({RunState.ADMITTED, RunState.HELD}) | _ENDS_WAITING,
    RunState.HELD: frozenset({RunState.QUEUED, RunState.DELAYED, RunState.BACKOFF, RunState.FAILED}) | _ENDS_WAITING,
    RunState.BACKOFF: frozenset({RunState.QUEUED, RunState.HELD}) | _ENDS_WAITING,
    RunState.SUSPENDED: frozenset({RunState.QUEUED, RunState.HELD, RunState.FAILED}) | _ENDS_WAITING,
    RunState.ADMITTED: frozenset({RunState.RUNNING, RunState.CANCELLING, RunState.HELD}) | _AFTER_ATTEMPT,
    RunState.RUNNING: frozenset({RunState.CANCELLING, RunState.SUSPENDED, RunState.HELD}) | _AFTER_ATTEMPT,
    RunState.CANCELLING: frozenset({RunState.CANCELLED}),
} | {state: frozenset() for state in TERMINAL}


class Reason(StrEnum):
    """Why a run waits or ended, and why an attempt ended: an API of its own, in CamelCase as conditions want it."""

    # waiting
    TASK_NOT_FOUND = "TaskNotFound"
    QUEUE_NOT_FOUND = "QueueNotFound"
    POD_REFUSED = "PodCreationRefused"
    UNSCHEDULABLE = "Unschedulable"
    CANCEL_REQUESTED = "CancelRequested"
    PAUSED = "Paused"
    INVALID_INPUT = "InvalidInput"
    SUSPENDED = "Suspended"
    CODE_CHANGED = "CodeChanged"
    STEP_BACKOFF = "StepBackoff"
    # how an attempt or a run ended
    SUCCEEDED = "Succeeded"
    USER_FAILURE = "TaskFailed"
    FATAL = "FatalError"
    CRASHED = "ProcessCrashed"
    OOM = "OOMKilled"
    CHILD_OOM = "ChildOOMKilled"
    STORAGE = "EphemeralStorageExceeded"
    TIMEOUT = "AttemptTimeout"
    RUN_TIMEOUT = "RunTimeout"
    DEADLINE = "DeadlineExceeded"
    QUEUE_TTL = "QueueTTL"
    CANCELLED = "Cancelled"
    LOST_RESULT = "LostResult"
    CONFIG = "ConfigError"
    START_ERROR = "StartError"
    IMAGE_PULL = "ImagePullFailed"
    POD_LOST = "PodLost"
    EVICTED = "Evicted"
    PREEMPTED = "Preempted"
    DRAINED = "Drained"
    NODE_LOST = "NodeLost"
    NODE_SHUTDOWN = "NodeShutdown"
    NODE_REFUSED = "NodeRefused"
    KUBELET_RESTARTED = "KubeletRestarted"
    LEASE_EXPIRED = "LeaseExpired"
    SIDECAR_LOST = "SidecarLost"
    POISONED = "InfrastructureBudgetSpent"
    EXPIRED = "Expired"


OUT_OF_MEMORY: Final = frozenset({Reason.OOM, Reason.CHILD_OOM})
CANNOT_START: Final = frozenset(
    {Reason.CONFIG, Reason.START_ERROR, Reason.IMAGE_PULL, Reason.POD_REFUSED},
)
"""Somebody has to mend the Task, the image or the namespace: another attempt would end in the same way."""
