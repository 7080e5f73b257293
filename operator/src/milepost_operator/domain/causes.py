"""What each end of an attempt means, in a sentence for people, and what they can do about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from milepost_operator.domain.states import Reason


@dataclass(frozen=True, slots=True)
class Cause:
    """`advice` is empty where nothing has to be done."""

    sentence: str
    advice: str = ""


_WAIT: Final = "Nothing has to be done: the next attempt goes on from the last record."

CAUSES: Final[Mapping[Reason, Cause]] = {
    Reason.SUCCEEDED: Cause("The attempt did its work."),
    Reason.SUSPENDED: Cause("The run gave its pod back and waits."),
    Reason.STEP_BACKOFF: Cause("A step failed, and its next try is too far off to wait for in the pod."),
    Reason.PAUSED: Cause("The queue was paused before the attempt began."),
    Reason.CODE_CHANGED: Cause(
        "The code does not fit what the run recorded.", "Decide about the run (accept, recheck or fail), or roll back."
    ),
    Reason.USER_FAILURE: Cause("The task raised an error.", "Read the error; mend the task or what it calls."),
    Reason.FATAL: Cause(
        "The task raised an error that no further attempt would change.", "Mend the input or the task, then retry it."
    ),
    Reason.CRASHED: Cause(
        "The task's process ended without a result: an exit, a signal, a fault of native code.",
        "Read the last lines of its log; native extensions leave a core, not a traceback.",
    ),
    Reason.OOM: Cause(
        "The task went over its memory limit, and the kernel killed it.",
        "Raise resources.limits.memory, set retry.onOOM, or hold less in memory at once.",
    ),
    Reason.CHILD_OOM: Cause(
        "The container went over its memory limit, and the kernel killed a process that the task had started.",
        "Raise resources.limits.memory, set retry.onOOM, or start fewer or smaller processes.",
    ),
    Reason.STORAGE: Cause(
        "The pod wrote more to its file system than its ephemeral-storage limit or a volume's size allows.",
        "Raise resources.limits.ephemeral-storage or the volume's sizeLimit, or delete files as you go.",
    ),
    Reason.TIMEOUT: Cause(
        "The attempt took longer than timeouts.attemptSeconds.",
        "Raise it, or record steps and checkpoints so that each attempt gets further.",
    ),
    Reason.RUN_TIMEOUT: Cause("The run took longer than timeouts.runSeconds.", "Raise it, or make the run smaller."),
    Reason.DEADLINE: Cause(
        "The run had not finished within deadlineSeconds of its trigger.",
        "Give it more time, or its queue more room.",
    ),
    Reason.QUEUE_TTL: Cause("The run was not admitted within its time.", "Give its queue more room."),
    Reason.EXPIRED: Cause("The run was held for something that did not come.", "Apply what it lacked, then retry it."),
    Reason.CANCELLED: Cause("Somebody cancelled the run."),
    Reason.LOST_RESULT: Cause(
        "The task's process ended with exit code 0 without a result.",
        "Return from the task's function; don't end the process with os._exit or exec.",
    ),
    Reason.CONFIG: Cause(
        "The container can't be configured, or the task can't be loaded.",
        "Mend what the message names: an entrypoint, a Secret, a ConfigMap, a volume.",
    ),
    Reason.START_ERROR: Cause(
        "The container's program can't be started.",
        "Mend the image or command: the program must be there and runnable.",
    ),
    Reason.IMAGE_PULL: Cause("The image can't be pulled.", "Check its name, the registry, and pod.imagePullSecrets."),
    Reason.POD_REFUSED: Cause(
        "The cluster refuses to create the pod.",
        "Mend what the message names: a policy, a quota, a webhook, a service account.",
    ),
    Reason.UNSCHEDULABLE: Cause(
        "No node has room for the pod, or none that it may run on.",
        "Ask for less, add nodes, or mend nodeSelector, affinity and tolerations.",
    ),
    Reason.EVICTED: Cause(
        "The node evicted the pod.",
        "Ask for what the task needs (resources.requests), so that it is not placed where it has no room.",
    ),
    Reason.PREEMPTED: Cause(
        "A pod of higher priority took the pod's place.", "Give the Task a pod.priorityClassName if that is wrong."
    ),
    Reason.DRAINED: Cause("The pod was evicted through the API, as a drain of its node does.", _WAIT),
    Reason.NODE_LOST: Cause("The pod's node was lost, or tainted so that the pod had to go.", _WAIT),
    Reason.NODE_SHUTDOWN: Cause("The pod's node was shut down.", _WAIT),
    Reason.NODE_REFUSED: Cause("The node refused the pod that was placed on it.", _WAIT),
    Reason.KUBELET_RESTARTED: Cause("The node's kubelet came back without the container.", _WAIT),
    Reason.POD_LOST: Cause(
        "Something else deleted the pod or killed the container.", "Find out who did (audit log); " + _WAIT.lower()
    ),
    Reason.SIDECAR_LOST: Cause(
        "The pod's sidecar was not there or could not reach the api.",
        "Read its log: the network, its token and the api's certificate are what it needs.",
    ),
    Reason.LEASE_EXPIRED: Cause("The pod gave no sign of life for a whole lease.", _WAIT),
    Reason.POISONED: Cause(
        "The run lost its pods too often in a row without a new record.",
        "Find out why its pods are lost (kubectl get events), then redrive it.",
    ),
}


_BY_WORD: Final = {reason.value: cause for reason, cause in CAUSES.items()}


def explained(reason: str | None) -> Cause | None:
    """What is known of a reason, as rows have it; None: nothing."""
    return _BY_WORD.get(reason or "")
