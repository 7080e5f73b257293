"""The rules of how an attempt ended, as a table."""

from datetime import UTC, datetime, timedelta

import pytest

from milepost_operator.domain.runs import Ending
from milepost_operator.domain.states import Reason
from milepost_operator.reconcile.ended import Waiting, classify, vanished

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
GRACE = 60


def at(seconds):
    return (NOW + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def terminated(code, reason="Error", message="", finished=-1):
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": at(-100),
            "finishedAt": at(finished),
        },
    }


def waiting(reason, message=""):
    return {"waiting": {"reason": reason, "message": message}}


def pod(state=None, *, command=False, phase="Running", created=-100, sidecar=None, meta=None, conditions=(), **status):
    task = {"name": "task", "image": "a:1", "state": state or {"running": {"startedAt": at(-50)}}}
    program = ["sh"] if command else ["python3", "-m", "milepost.runner"]
    return {
        "metadata": {"name": "mp-x-1", "uid": "u", "creationTimestamp": at(created), **(meta or {})},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "task", "command": program, "resources": {"limits": {"memory": "64Mi"}}}],
        },
        "status": {
            "phase": phase,
            "containerStatuses": [task],
            "initContainerStatuses": [{"name": "milepost-sidecar", "state": {"running": {}}, **(sidecar or {})}],
            "conditions": list(conditions),
            **status,
        },
    }


def disruption(seconds, reason="EvictionByEvictionAPI"):
    return {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": "Eviction API: evicting",
        "lastTransitionTime": at(seconds),
    }


def deleted(asked, grace=30):
    return {"deletionTimestamp": at(asked + grace), "deletionGracePeriodSeconds": grace}


USER, INFRA, FINAL, DONE = (True, False, False), (False, True, False), (False, False, True), (False, False, False)
STORAGE = "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi."
EMPTY_DIR = 'Usage of EmptyDir volume "milepost-tmp" exceeds the limit "1Mi".'
PRESSURE = (
    "The node was low on resource: ephemeral-storage. Threshold quantity: 1, available: 0. "
    "Container task was using 36Ki, which exceeds its request of 0."
)
NO_EXEC = 'failed to create containerd task: exec: "nosuch": executable file not found in $PATH'

ENDED = {
    "oom": (pod(terminated(137, "OOMKilled"), phase="Failed"), Reason.OOM, USER),
    "oom-while-evicted": (
        pod(terminated(137, "OOMKilled"), phase="Failed", conditions=[disruption(-5)]),
        Reason.OOM,
        USER,
    ),
    "storage": (pod(terminated(137), phase="Failed", reason="Evicted", message=STORAGE), Reason.STORAGE, USER),
    "emptydir": (pod(terminated(137), phase="Failed", reason="Evicted", message=EMPTY_DIR), Reason.STORAGE, USER),
    "node-pressure": (pod(terminated(137), phase="Failed", reason="Evicted", message=PRESSURE), Reason.EVICTED, INFRA),
    "drained": (pod(terminated(143), phase="Failed", conditions=[disruption(-5)]), Reason.DRAINED, INFRA),
    "preempted": (
        pod(terminated(143), phase="Failed", conditions=[disruption(-5, "PreemptionByScheduler")]),
        Reason.PREEMPTED,
        INFRA,
    ),
    "preempted-for-a-critical-pod": (
        pod(
            terminated(137),
            phase="Failed",
            reason="Preempting",
            message="Preempted in order to admit critical pod",
            conditions=[disruption(-5, "TerminationByKubelet")],
        ),
        Reason.PREEMPTED,
        INFRA,
    ),
    "tainted": (
        pod(terminated(143), phase="Failed", conditions=[disruption(-5, "DeletionByTaintManager")]),
        Reason.NODE_LOST,
        INFRA,
    ),
    "node-gone": (pod(phase="Failed", conditions=[disruption(-5, "DeletionByPodGC")]), Reason.NODE_LOST, INFRA),
    "unknown-disruption": (pod(terminated(143), conditions=[disruption(-5, "SomethingNew")]), Reason.EVICTED, INFRA),
    "oom-of-a-child": (pod(terminated(1, "OOMKilled"), command=True, phase="Failed"), Reason.CHILD_OOM, USER),
    "oom-under-the-runner": (pod(terminated(70, "OOMKilled"), phase="Failed"), Reason.OOM, USER),
    "oom-of-a-child-that-did-not-matter": (
        pod(terminated(0, "OOMKilled"), command=True, phase="Succeeded"),
        Reason.SUCCEEDED,
        DONE,
    ),
    "drained-exit-0": (
        pod(terminated(0, "Completed"), command=True, phase="Succeeded", conditions=[disruption(-5)]),
        Reason.DRAINED,
        INFRA,
    ),
    "done-before-drained": (
        pod(terminated(0, "Completed", finished=-20), command=True, phase="Succeeded", conditions=[disruption(-5)]),
        Reason.SUCCEEDED,
        DONE,
    ),
    "node-shutdown": (pod(terminated(137), phase="Failed", reason="Terminated"), Reason.NODE_SHUTDOWN, INFRA),
    "node-lost": (pod(phase="Failed", reason="NodeLost"), Reason.NODE_LOST, INFRA),
    "refused-by-node": (
        pod(phase="Failed", reason="OutOfcpu", message="Pod was rejected", containerStatuses=[]),
        Reason.NODE_REFUSED,
        INFRA,
    ),
    "deleted-by-others": (pod(terminated(143), meta=deleted(-5)), Reason.POD_LOST, INFRA),
    "crashed-then-deleted": (pod(terminated(3, finished=-20), meta=deleted(-5)), Reason.CRASHED, USER),
    "deletion-overdue": (pod(meta=deleted(-60)), Reason.NODE_LOST, INFRA),
    "no-such-program": (pod(terminated(128, "StartError", NO_EXEC), phase="Failed"), Reason.START_ERROR, FINAL),
    "exec-format": (
        pod(terminated(127, "ContainerCannotRun", "exec format error"), command=True, phase="Failed"),
        Reason.START_ERROR,
        FINAL,
    ),
    "runner-config": (pod(terminated(64, message="no module etl")), Reason.CONFIG, FINAL),
    "runner-no-sidecar": (pod(terminated(65)), Reason.SIDECAR_LOST, INFRA),
    "runner-failed": (pod(terminated(70)), Reason.USER_FAILURE, USER),
    "runner-fenced": (pod(terminated(75)), Reason.LEASE_EXPIRED, INFRA),
    "command-64-is-its-own": (pod(terminated(64), command=True), Reason.USER_FAILURE, USER),
    "sigkill": (pod(terminated(137), phase="Failed"), Reason.POD_LOST, INFRA),
    "crash": (pod(terminated(139), phase="Failed"), Reason.CRASHED, USER),
    "command-fails": (pod(terminated(3, message="boom"), command=True), Reason.USER_FAILURE, USER),
    "command-succeeds": (pod(terminated(0, "Completed"), command=True), Reason.SUCCEEDED, DONE),
    "entrypoint-exits-0": (pod(terminated(0, "Completed")), Reason.LOST_RESULT, USER),
    "unknown-container": (pod(terminated(137, "ContainerStatusUnknown")), Reason.KUBELET_RESTARTED, INFRA),
    "sidecar-crash-loop": (
        pod(sidecar={"restartCount": 4, "state": waiting("CrashLoopBackOff")}),
        Reason.SIDECAR_LOST,
        INFRA,
    ),
    "image-after-grace": (pod(waiting("ImagePullBackOff", "not found"), phase="Pending"), Reason.IMAGE_PULL, FINAL),
    "bad-image-name": (pod(waiting("InvalidImageName"), phase="Pending", created=-1), Reason.IMAGE_PULL, FINAL),
    "config-after-grace": (
        pod(waiting("CreateContainerConfigError", 'secret "s" not found'), phase="Pending"),
        Reason.CONFIG,
        FINAL,
    ),
    "run-container-error": (pod(waiting("RunContainerError"), phase="Pending"), Reason.CONFIG, FINAL),
    "sidecar-image": (
        pod(waiting("PodInitializing"), phase="Pending", sidecar={"state": waiting("ErrImagePull")}),
        Reason.IMAGE_PULL,
        FINAL,
    ),
}


@pytest.mark.parametrize("name", ENDED)
def test_an_end_is_told_by_rule(name):
    observed, reason, kind = ENDED[name]
    ending = classify(observed, NOW, GRACE)
    assert isinstance(ending, Ending)
    assert ending.reason is reason
    assert (ending.counted, ending.infra, ending.final) == kind
    assert ending.message


ALIVE = {
    "running": pod(),
    "creating": pod(waiting("ContainerCreating"), phase="Pending"),
    "sidecar-restarted": pod(sidecar={"restartCount": 2, "state": waiting("CrashLoopBackOff")}),
    "being-deleted": pod(meta=deleted(-5)),
    "evicting": pod(conditions=[disruption(-5)], meta=deleted(-5)),
    "empty": {},
}


@pytest.mark.parametrize("name", ALIVE)
def test_what_may_go_on_has_not_ended(name):
    assert classify(ALIVE[name], NOW, GRACE) is None


WAITS = {
    "unschedulable": (
        pod(
            phase="Pending",
            containerStatuses=[],
            conditions=[
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: cpu"},
            ],
        ),
        Reason.UNSCHEDULABLE,
    ),
    "image": (pod(waiting("ErrImagePull", "no such host"), phase="Pending", created=-10), Reason.IMAGE_PULL),
    "config": (pod(waiting("CreateContainerConfigError"), phase="Pending", created=-10), Reason.CONFIG),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_waits_says_why(name):
    observed, reason = WAITS[name]
    found = classify(observed, NOW, GRACE)
    assert isinstance(found, Waiting)
    assert found.reason is reason


def test_the_grace_of_a_pull_begins_when_the_pod_is_placed():
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(-5)}
    held_up = pod(waiting("ErrImagePull"), phase="Pending", created=-900, conditions=[scheduled])
    assert isinstance(classify(held_up, NOW, GRACE), Waiting)


def test_code_that_may_have_run_is_told_from_code_that_did_not():
    assert classify(ENDED["crash"][0], NOW, GRACE).started
    assert not classify(ENDED["no-such-program"][0], NOW, GRACE).started
    assert not classify(ENDED["image-after-grace"][0], NOW, GRACE).started


def job(kind, message="", *, command=False):
    program = ["sh"] if command else ["python3", "-m", "milepost.runner"]
    return {
        "spec": {"template": {"spec": {"containers": [{"name": "task", "command": program}]}}},
        "status": {"conditions": [{"type": kind, "status": "True", "message": message}]},
    }


CODE_3 = "Container task for pod ns/mp-x failed with exit code 3 matching FailJob rule at index 1"
DISRUPTED = "Pod ns/mp-x has condition DisruptionTarget matching FailJob rule at index 0"


@pytest.mark.parametrize(
    ("observed", "reason", "infra"),
    [
        (None, Reason.POD_LOST, True),
        (job("Suspended"), Reason.POD_LOST, True),
        (job("Failed", CODE_3, command=True), Reason.USER_FAILURE, False),
        (job("FailureTarget", CODE_3), Reason.CRASHED, False),
        (job("Failed", DISRUPTED), Reason.EVICTED, True),
        (job("Failed", "Job was active longer than specified deadline"), Reason.POD_LOST, True),
        (job("Complete", command=True), Reason.SUCCEEDED, False),
        (job("Complete"), Reason.LOST_RESULT, False),
    ],
)
def test_a_vanished_pods_end_is_in_its_job(observed, reason, infra):
    ending = vanished(observed, None, bound=True)
    assert (ending.reason, ending.infra) == (reason, infra)
