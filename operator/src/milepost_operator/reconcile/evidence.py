"""What a pod or a Job says about its own end, read from its status."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from milepost_operator.manifests import raw
from milepost_operator.manifests.job import RUNNER_COMMAND, SIDECAR_CONTAINER, TASK_CONTAINER
from milepost_operator.manifests.raw import Object

_EXIT_CODE: Final = re.compile(r"failed with exit code (\d+)")


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of the task container. `finished`: when, None when only the Job's condition tells of it."""

    code: int
    reason: str
    message: str
    finished: datetime | None = None


def container(pod: Object, name: str) -> Object:
    """The status of a container, the sidecar's too."""
    statuses = [*raw.parts(pod, "status", "containerStatuses"), *raw.parts(pod, "status", "initContainerStatuses")]
    return next((status for status in statuses if status.get("name") == name), {})


def task(pod: Object) -> Object:
    return container(pod, TASK_CONTAINER)


def sidecar(pod: Object) -> Object:
    return container(pod, SIDECAR_CONTAINER)


def sidecar_runs(pod: Object, now: datetime) -> float:
    """Seconds since the sidecar last started; 0 while it doesn't run."""
    since = raw.when(sidecar(pod), "state", "running", "startedAt")
    return (now - since).total_seconds() if since else 0.0


def exit_of(pod: Object) -> Exit | None:
    """How the task container ended; None while it hasn't."""
    ended = raw.part(task(pod), "state", "terminated")
    code = raw.number(ended, "exitCode")
    if code is None:
        return None
    return Exit(code, raw.text(ended, "reason"), raw.text(ended, "message").strip(), raw.when(ended, "finishedAt"))


def over(pod: Object) -> bool:
    """Whether nothing of the task runs in it any more."""
    return finished(pod) or exit_of(pod) is not None


def started(pod: Object) -> bool:
    """Whether the task's own code may have run."""
    state = raw.part(task(pod), "state")
    if "running" in state:
        return True
    return raw.when(state, "terminated", "startedAt") is not None and not never_ran(
        raw.text(state, "terminated", "reason")
    )


def never_ran(reason: str) -> bool:
    return reason in {"StartError", "ContainerCannotRun", "ContainerStatusUnknown"}


def finished(pod: Object) -> bool:
    """Nothing of the pod runs any more."""
    return raw.text(pod, "status", "phase") in {"Succeeded", "Failed"}


def is_command(template: Object) -> bool:
    """Whether a pod, or a Job's template, runs the task's own program rather than our runner."""
    containers = raw.parts(template, "spec", "containers")
    main = next((one for one in containers if one.get("name") == TASK_CONTAINER), {})
    return raw.at(main, "command") != list(RUNNER_COMMAND)


def deletion_asked(pod: Object) -> datetime | None:
    """When someone asked for the pod's deletion (its timestamp is when the grace ends)."""
    due = raw.when(pod, "metadata", "deletionTimestamp")
    grace = raw.number(pod, "metadata", "deletionGracePeriodSeconds") or 0
    return due - timedelta(seconds=grace) if due else None


def disrupted(pod: Object, ended: datetime | None) -> Object:
    """The DisruptionTarget condition, when it came before the end."""
    found = raw.condition(pod, "DisruptionTarget")
    if found.get("status") != "True":
        return {}
    at = raw.when(found, "lastTransitionTime")
    return {} if ended and at and at > ended + timedelta(seconds=1) else found


def job_exit(job: Object) -> Exit | None:
    """What a finished Job's condition keeps of its pod's end; None while the Job isn't finished."""
    if raw.holds(job, "Complete") or raw.holds(job, "SuccessCriteriaMet"):
        return Exit(0, "Completed", "")
    for kind in ("Failed", "FailureTarget"):
        if raw.holds(job, kind):
            message = raw.text(raw.condition(job, kind), "message")
            code = _EXIT_CODE.search(message)
            if code:
                return Exit(int(code[1]), "Error", message)
            return Exit(-1, "Disrupted" if "DisruptionTarget" in message else "JobFailed", message)
    return None


def memory_limit(pod: Object) -> str:
    """Of the task's container, as its manifest has it; empty: none."""
    containers = raw.parts(pod, "spec", "containers")
    main = next((one for one in containers if one.get("name") == TASK_CONTAINER), {})
    return raw.text(main, "resources", "limits", "memory")


def facts(pod: Object, end: Exit | None) -> Mapping[str, object]:
    """What to keep with the attempt, for people who look into it later."""
    known: dict[str, object] = {
        "pod": raw.name(pod),
        "node": raw.text(pod, "spec", "nodeName"),
        "phase": raw.text(pod, "status", "phase"),
        "podReason": raw.text(pod, "status", "reason"),
        "disruption": raw.text(raw.condition(pod, "DisruptionTarget"), "reason"),
        "sidecarRestarts": raw.number(sidecar(pod), "restartCount") or 0,
    }
    if end:
        known |= {"exitCode": end.code, "containerReason": end.reason}
    return {key: value for key, value in known.items() if value not in ("", 0) or key == "exitCode"}
