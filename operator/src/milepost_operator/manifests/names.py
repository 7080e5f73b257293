"""Names and label values: always valid, and different for different things."""

import hashlib
import re
from typing import Final

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "milepost"
POD_LABEL: Final = "milepost.dev/pod"
PULL_LABEL: Final = "milepost.dev/pull"
TASK_LABEL: Final = "milepost.dev/task"
VERSION_LABEL: Final = "milepost.dev/version"
CLUSTER_ANNOTATION: Final = "milepost.dev/cluster"
RUN_ID_ANNOTATION: Final = "milepost.dev/run-id"
RESTART_ANNOTATION: Final = "milepost.dev/restartedAt"
"""On a Task: when it changes, pods of before take no more runs."""
SELECTOR: Final = f"{MANAGED_BY}={MANAGER}"
"""Selects the Jobs and pods that are ours."""

_MAX_LABEL: Final = 63
_HASH: Final = 10
_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_JOB: Final = re.compile(r"mp-([a-z0-9]{16})")


def job_name(pod_id: str) -> str:
    """Name of the Job of a pods row."""
    return f"mp-{pod_id}"


def is_pod_of(pod: str, pod_id: str) -> bool:
    """Whether a pod's name is one that the Job controller gives to pods of this row's Job."""
    return bool(pod_id) and pod.startswith(f"{job_name(pod_id)}-")


def pod_id_of(job: str) -> str | None:
    """The pods row a Job's name speaks of, None when it is not such a name."""
    found = _JOB.fullmatch(job)
    return found[1] if found else None


def digest(*parts: str, length: int = _HASH) -> str:
    """Hex digest of parts that can't run into each other."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:length]


def label_value(value: str) -> str:
    """`value` itself where it may be a label's; else its readable beginning and a hash of all of it."""
    if len(value) <= _MAX_LABEL and (not value or _LABEL.fullmatch(value)):
        return value
    readable = re.sub(r"[^A-Za-z0-9_.-]", "-", value)[: _MAX_LABEL - _HASH - 1].strip("-_.")
    return f"{readable}-{digest(value)}".strip("-")


def event_name(run_name: str, run_id: str, seq: int) -> str:
    """Name of a transition's Event: the same each time, so that it is told once; in the order of kubectl's lists."""
    return f"{run_name[:200].rstrip('-.')}.{digest(run_id, length=8)}.{seq:04}"


def clipped(value: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, with an ellipsis where something is left off."""
    encoded = value.encode(errors="replace")
    if len(encoded) <= limit:
        return value
    return encoded[: max(limit - 3, 0)].decode(errors="ignore") + "…"
