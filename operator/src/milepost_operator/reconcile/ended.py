"""How an attempt ended, by rule, from what is seen of its pod (ARCHITECTURE, "How an attempt ended").

The store knows the first two rules: our own intent, and a result that was settled, win over all of these.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from milepost.wire.local import EXIT_CONFIG, EXIT_FAILED, EXIT_FENCED, EXIT_SIDECAR
from milepost_operator.domain.runs import Ending
from milepost_operator.domain.states import CANNOT_START, Reason
from milepost_operator.manifests import raw
from milepost_operator.manifests.names import clipped
from milepost_operator.manifests.raw import Object
from milepost_operator.reconcile import evidence
from milepost_operator.reconcile.evidence import Exit

_OVER_LIMIT: Final = re.compile(r"exceed(s|ed).*(ephemeral|limit)|ephemeral.*exceed", re.IGNORECASE)
_NODE_PRESSURE: Final = "The node was low on resource"
_DISRUPTIONS: Final = {
    "PreemptionByScheduler": Reason.PREEMPTED,
    "EvictionByEvictionAPI": Reason.DRAINED,
    "DeletionByTaintManager": Reason.NODE_LOST,
    "DeletionByPodGC": Reason.NODE_LOST,
}
"""Reasons of the condition DisruptionTarget; TerminationByKubelet says less than the pod's own reason."""
_POD_REASONS: Final = {
    "Evicted": Reason.EVICTED,
    "Preempting": Reason.PREEMPTED,
    "NodeLost": Reason.NODE_LOST,
    "NodeShutdown": Reason.NODE_SHUTDOWN,
    "Shutdown": Reason.NODE_SHUTDOWN,
    "Terminated": Reason.NODE_SHUTDOWN,
    "Terminating": Reason.NODE_SHUTDOWN,
}
"""status.reason of a pod that its kubelet ended, or refused."""
IMAGE_TROUBLE: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    },
)
_CONFIG: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
HOPELESS_IMAGE: Final = frozenset({"InvalidImageName", "ErrImageNeverPull"})
_CRASH_LOOPS: Final = 3
_LATE_SECONDS: Final = 15
_DISRUPTED: Final = "evicted, drained, preempted, or its node was lost: its Job keeps no more of it"
_UNCONFIRMED: Final = "the node does not confirm that the pod ended"
_SIGKILL: Final = 137
_SIGTERM: Final = 143
_MESSAGE: Final = 2000


@dataclass(frozen=True, slots=True)
class Waiting:
    """The pod is alive and doesn't run yet: why."""

    reason: Reason
    message: str


def classify(pod: Object, now: datetime, config_grace_seconds: float) -> Ending | Waiting | None:
    """The end of the pod's attempt, what it waits for, or None: it is at work (or about to be)."""
    end = evidence.exit_of(pod)
    if end or evidence.finished(pod):
        return _of_exit(end, pod)
    if _overdue(pod, now):
        return _infra(Reason.NODE_LOST, _UNCONFIRMED, pod, None)
    if "deletionTimestamp" in raw.part(pod, "metadata"):
        return None
    return _of_waiting(pod, now, config_grace_seconds)


def node_lost(pod: Object, now: datetime | None) -> Ending | None:
    """The end of an attempt whose pod has to go, if its node is lost; None: nothing tells so. `now` is None for a pod
    that is gone, which can't be late.
    """
    disruption = evidence.disrupted(pod, None)
    if _DISRUPTIONS.get(raw.text(disruption, "reason")) is Reason.NODE_LOST:
        return _infra(Reason.NODE_LOST, _said(disruption), pod, None)
    if now is None or evidence.over(pod) or not _overdue(pod, now):
        return None
    return _infra(Reason.NODE_LOST, _UNCONFIRMED, pod, None)


def _overdue(pod: Object, now: datetime) -> bool:
    due = raw.when(pod, "metadata", "deletionTimestamp")
    return due is not None and now > due + timedelta(seconds=_LATE_SECONDS)


def vanished(job: Object | None, pod: Object | None, *, bound: bool) -> Ending:
    """The pod is gone. How it was as it went tells most (None: nobody saw), then what its Job still knows."""
    if pod is not None and _tells_its_end(pod):
        return _of_exit(evidence.exit_of(pod), pod)
    known = evidence.job_exit(job) if job else None
    if job is None or known is None:
        return Ending(
            Reason.POD_LOST, "the pod was deleted by something else", counted=False, infra=True, started=bound
        )
    if known.reason == "Disrupted":
        return Ending(Reason.EVICTED, _DISRUPTED, counted=False, infra=True, started=bound)
    if known.code < 0:
        return Ending(Reason.POD_LOST, clipped(known.message, _MESSAGE), counted=False, infra=True, started=bound)
    return _by_code(known, {}, command=evidence.is_command(raw.part(job, "spec", "template")))


def _tells_its_end(pod: Object) -> bool:
    over = evidence.exit_of(pod) or evidence.finished(pod) or evidence.disrupted(pod, None)
    return bool(over or evidence.deletion_asked(pod))


def _of_exit(end: Exit | None, pod: Object) -> Ending:
    why, message = raw.text(pod, "status", "reason"), raw.text(pod, "status", "message")
    finished = end.finished if end else None
    if end and end.reason == "OOMKilled" and end.code:
        return _out_of_memory(pod, end)
    if _OVER_LIMIT.search(message) and not message.startswith(_NODE_PRESSURE):
        return _ended(Reason.STORAGE, message, pod, end)
    if disruption := evidence.disrupted(pod, finished):
        known = _DISRUPTIONS.get(raw.text(disruption, "reason")) or _POD_REASONS.get(why) or Reason.EVICTED
        return _infra(known, message or _said(disruption), pod, end)
    if why:
        refused = Reason.EVICTED if end and evidence.started(pod) else Reason.NODE_REFUSED
        return _infra(_POD_REASONS.get(why, refused), message or why, pod, end)
    asked = evidence.deletion_asked(pod)
    if asked and (end is None or end.finished is None or end.finished >= asked):
        return _infra(Reason.POD_LOST, "the pod was deleted by something else", pod, end)
    if end is None:
        return _infra(Reason.POD_LOST, "the pod ended without running the task", pod, end)
    return _by_code(end, pod, command=evidence.is_command(pod))


def _out_of_memory(pod: Object, end: Exit) -> Ending:
    """The kernel killed the container's main process (with it all of them, by cgroup v2), or, by another exit code, one
    that it had started: under our runner that may be the task itself.
    """
    limit = evidence.memory_limit(pod)
    at = f"at its limit of {limit}" if limit else "by the kernel"
    if end.code == _SIGKILL or not evidence.is_command(pod):
        return _ended(Reason.OOM, f"out of memory: the container was killed {at}", pod, end)
    said = f"out of memory: a process that the task had started was killed {at}, then it ended with {end.code}"
    return _ended(Reason.CHILD_OOM, said, pod, end)


def _by_code(end: Exit, pod: Object, *, command: bool) -> Ending:
    if evidence.never_ran(end.reason):
        if end.reason == "ContainerStatusUnknown":
            return _infra(Reason.KUBELET_RESTARTED, end.message or "the node lost track of the container", pod, end)
        return _ended(
            Reason.START_ERROR, f"the container can't start: {end.message or end.reason}", pod, end, final=True
        )
    if end.code == _SIGKILL:
        return _infra(Reason.POD_LOST, "killed (137) by neither the memory limit nor us", pod, end)
    if command:
        return _of_command(end, pod)
    said = f": {end.message}" if end.message else ""
    if end.code == 0:
        return _ended(Reason.LOST_RESULT, "the process ended with exit code 0 before its result was recorded", pod, end)
    if end.code == EXIT_CONFIG:
        return _ended(Reason.CONFIG, f"the task can't be loaded{said}", pod, end, final=True)
    if end.code == EXIT_SIDECAR:
        return _infra(Reason.SIDECAR_LOST, f"the runner found no sidecar{said}", pod, end)
    if end.code == EXIT_FENCED:
        return _infra(Reason.LEASE_EXPIRED, "the attempt was fenced off or told to stop", pod, end)
    if end.code == _SIGTERM:
        return _infra(Reason.POD_LOST, "told to end (143) by something else", pod, end)
    if end.code == EXIT_FAILED:
        return _ended(Reason.USER_FAILURE, f"the task failed{said}", pod, end)
    return _ended(Reason.CRASHED, f"the process ended with exit code {end.code}{said}", pod, end)


def _of_command(end: Exit, pod: Object) -> Ending:
    if end.code == 0:
        return Ending(Reason.SUCCEEDED, "exit code 0", counted=False, evidence=evidence.facts(pod, end))
    said = f": {end.message}" if end.message else ""
    return _ended(Reason.USER_FAILURE, f"exit code {end.code}{said}", pod, end)


def _of_waiting(pod: Object, now: datetime, grace_seconds: float) -> Ending | Waiting | None:
    scheduled = raw.condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return Waiting(Reason.UNSCHEDULABLE, clipped(raw.text(scheduled, "message"), _MESSAGE))
    loops = raw.number(evidence.sidecar(pod), "restartCount") or 0
    if raw.text(evidence.sidecar(pod), "state", "waiting", "reason") == "CrashLoopBackOff" and loops >= _CRASH_LOOPS:
        said = raw.text(evidence.sidecar(pod), "lastState", "terminated", "message")
        return _infra(Reason.SIDECAR_LOST, f"the sidecar crashed {loops} times. {said}".strip(), pod, None)
    for status in (evidence.sidecar(pod), evidence.task(pod)):
        found = _held_up(pod, status, now, grace_seconds)
        if found:
            return found
    return None


def _held_up(pod: Object, status: Object, now: datetime, grace_seconds: float) -> Ending | Waiting | None:
    """A container that can't be created: by its image, or by what its configuration refers to."""
    why = raw.text(status, "state", "waiting", "reason")
    if why in IMAGE_TROUBLE:
        reason = Reason.IMAGE_PULL
    elif why in _CONFIG:
        reason = Reason.CONFIG
    else:
        return None
    said = raw.text(status, "state", "waiting", "message") or why
    message = clipped(f"container {raw.text(status, 'name')}, image {raw.text(status, 'image')}: {said}", _MESSAGE)
    since = raw.when(raw.condition(pod, "PodScheduled"), "lastTransitionTime")
    since = since or raw.when(pod, "metadata", "creationTimestamp") or now
    if why in HOPELESS_IMAGE or now - since >= timedelta(seconds=grace_seconds):
        return Ending(reason, message, counted=False, final=True, started=False, evidence=evidence.facts(pod, None))
    return Waiting(reason, message)


def _ended(reason: Reason, message: str, pod: Object, end: Exit | None, *, final: bool = False) -> Ending:
    return Ending(
        reason,
        clipped(message, _MESSAGE),
        counted=reason not in CANNOT_START,
        final=final,
        started=evidence.started(pod) if pod else True,
        evidence=evidence.facts(pod, end),
    )


def _infra(reason: Reason, message: str, pod: Object, end: Exit | None) -> Ending:
    return Ending(
        reason,
        clipped(message, _MESSAGE),
        counted=False,
        infra=True,
        started=evidence.started(pod) if pod else True,
        evidence=evidence.facts(pod, end),
    )


def _said(condition: Object) -> str:
    return raw.text(condition, "message") or raw.text(condition, "reason") or "the pod was evicted"
