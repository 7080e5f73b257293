"""Pods, processes and nodes die: the run goes on behind its last record, and nothing finished is done again."""

import json
import time

import pytest

from e2e.harness.faults import Nodes, delete_job, delete_pod
from e2e.harness.lab import Lab
from e2e.harness.wait import eventually
from e2e.scenarios.judge import lost_to_infrastructure, over, resumed, succeeded, untouched

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

SIDECAR = "milepost-sidecar"


@pytest.mark.parametrize("which", ["child", "all"])
def test_task_process_killed(lab: Lab, nodes: Nodes, which: str) -> None:
    """SIGKILL, to the task alone or to its whole container, that no memory limit explains."""
    lab.task()
    run = lab.run()
    before = len([event for event in run.wait_steps(4) if event.phase == "acked"])
    nodes.kill(lab.namespace, str(run.live().pod), "task", "child" if which == "child" else "all")
    attempts = succeeded(run)
    resumed(attempts, before)
    lost_to_infrastructure(run, attempts)


def test_pod_force_deleted(lab: Lab) -> None:
    lab.task()
    run = lab.run()
    before = len([event for event in run.wait_steps(4) if event.phase == "acked"])
    delete_pod(run)
    attempts = succeeded(run)
    resumed(attempts, before)
    lost_to_infrastructure(run, attempts, {"PodLost"})


def test_pod_evicted(lab: Lab) -> None:
    """What a drain does to each pod."""
    lab.task(pod={"terminationGracePeriodSeconds": 2})
    run = lab.run()
    run.wait_steps(4)
    pod = str(run.live().pod)
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": lab.namespace},
    }
    path = f"/api/v1/namespaces/{lab.namespace}/pods/{pod}/eviction"
    lab.kubectl.run("create", "--raw", path, "-f", "-", text_in=json.dumps(eviction))
    lost_to_infrastructure(run, succeeded(run))


def test_sidecar_killed(lab: Lab, nodes: Nodes) -> None:
    """A restarted sidecar takes up the attempt where it was."""
    lab.task()
    run = lab.run()
    run.wait_steps(4)
    nodes.kill(lab.namespace, str(run.live().pod), SIDECAR)
    untouched(run, succeeded(run))


def test_out_of_memory(lab: Lab) -> None:
    """Told apart from other kills, and counted: it would come again."""
    lab.task()
    run = lab.run(given={"hog_at": 5})
    attempts = succeeded(run)
    resumed(attempts, 5)
    assert attempts[0].reason == "OOMKilled", attempts[0]
    assert attempts[1].pod_id != attempts[0].pod_id, "a pod that was out of memory takes nothing more"
    assert attempts[0].counted
    assert not attempts[0].infra
    assert attempts[1].cause == "retry"
    assert run.row()["attempts_counted"] == 1


def test_out_of_memory_for_good(lab: Lab) -> None:
    """Every attempt goes over the limit: the budget ends it, with the cause as its reason."""
    lab.task("steps", HOG, retry={"maxAttempts": 2, "minSeconds": 0.5, "maxSeconds": 1})
    run = lab.run()
    run.wait("Failed")
    assert run.status("reason") == "OOMKilled"
    assert [attempt.reason for attempt in run.attempts()] == ["OOMKilled", "OOMKilled"]
    assert run.attempts()[1].resumed_after == 1


def test_job_deleted(lab: Lab) -> None:
    lab.task(pod={"terminationGracePeriodSeconds": 2})
    run = lab.run()
    run.wait_steps(4)
    delete_job(run)
    lost_to_infrastructure(run, succeeded(run))


@pytest.mark.alone
def test_kubelet_stopped_and_started(lab: Lab, nodes: Nodes) -> None:
    """Containers live on without their kubelet, and so does the run."""
    lab.task()
    run = lab.run(given={"steps": 30})
    run.wait_steps(3)
    node = nodes.number_of(lab.kubectl.get("pod", str(run.live().pod), lab.namespace))
    nodes.platform.cluster.stop_kubelet(node)
    time.sleep(6)  # shorter than the node's grace: longer, and it would be a lost node
    nodes.platform.cluster.start_kubelet(node)
    untouched(run, succeeded(run, steps=30))


def test_frozen_attempt_wakes_up_too_late(lab: Lab, nodes: Nodes) -> None:
    """Its lease lapses, a successor takes over, and what wakes up can neither write nor stay."""
    lab.task(pod={"terminationGracePeriodSeconds": 30})
    run = lab.run()
    run.wait_steps(4)
    old = run.live()
    pids = nodes.freeze(lab.namespace, str(old.pod), SIDECAR, "task")
    try:
        eventually("a second attempt", lambda: run.live().number == 2, 60, diagnose=run.diagnose)
    finally:
        nodes.thaw(pids)
    attempts = succeeded(run)
    lost_to_infrastructure(run, attempts)
    assert attempts[0].reason == "LeaseExpired"
    late = (
        f"select count(*) from records where run_id = '{run.id}' and attempt = 1 and seq > {attempts[1].resumed_after}"
    )
    assert lab.sql.value(late) == 0
    eventually("the end of the old pod", lambda: over(lab, str(old.pod)), 60)


HOG = """
from milepost import Context, task


@task(id="hog")
async def main(ctx: Context) -> int:
    await ctx.step("progress", lambda: 1)
    return len([bytearray(b"x") * 2**20 for _ in range(4096)])
"""
