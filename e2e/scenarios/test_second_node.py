"""A node is lost, or drained, under a run: the cause is told, it spends no attempt of the task, nothing runs twice."""

import json
from collections.abc import Iterator

import pytest

from e2e.cluster.capabilities import Capability
from e2e.harness.counter import NAMESPACE as COUNTING
from e2e.harness.counter import Counter
from e2e.harness.kubectl import Kubectl, Object, dig
from e2e.harness.lab import COLD, Lab, Run
from e2e.harness.platform import Platform
from e2e.harness.release import NAMESPACE as SYSTEM
from e2e.harness.release import Release
from e2e.harness.wait import eventually
from e2e.scenarios.conftest import skip_without
from e2e.scenarios.judge import lost_to_infrastructure, over, resumed, succeeded, told

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.timeout(300)]

TAINT = "e2e.milepost.dev/away"
SECOND = 1
STEPS = 40


@pytest.fixture(scope="module")
def away(platform: Platform, release: Release, counter: Counter) -> Iterator[str]:
    """The second node, which takes nothing but pods that tolerate it: what judges the runs is on the first."""
    skip_without(platform, Capability.SECOND_NODE, Capability.NODE_STOP)
    cluster, kubectl = platform.cluster, platform.kubectl
    added = len(cluster.node_names()) == 1
    try:
        cluster.up(nodes=2)
        name = cluster.node_names()[SECOND]
        if bound(kubectl, name):
            pytest.skip(f"a volume of {SYSTEM} is bound to {name}: what is lost with it does not come back elsewhere")
        try:
            kubectl.run("taint", "node", name, f"{TAINT}=:NoExecute", "--overwrite")
            eventually("a node without what is ours", lambda: empty(kubectl, name), 60, diagnose=release.diagnose)
            release.wait_ready()
            counter.wait_ready(platform)
            yield name
        finally:
            kubectl.run("taint", "node", name, f"{TAINT}-")
    finally:
        if added and len(cluster.node_names()) > 1:
            cluster.remove_node()


def empty(kubectl: Kubectl, node: str) -> bool:
    ours = [pod for namespace in (SYSTEM, COUNTING) for pod in kubectl.items("pods", namespace)]
    return all(dig(pod, "spec", "nodeName") != node for pod in ours)


def bound(kubectl: Kubectl, node: str) -> bool:
    """Whether the control plane has a volume that can be had on this node alone."""
    volumes = [one for one in kubectl.items("pv") if dig(one, "spec", "claimRef", "namespace") == SYSTEM]
    return any(node in json.dumps(dig(one, "spec", "nodeAffinity")) for one in volumes)


def there(node: str) -> Object:
    """For the pod of a Task: on this node as long as it can be had."""
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    wish = {"weight": 10, "preference": {"matchExpressions": [here]}}
    return {
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"key": TAINT, "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}},
    }


def begun(lab: Lab, node: str) -> Run:
    """A run that has done some of its steps on the node."""
    lab.task(pod=there(node), warm=COLD)
    run = lab.run(given={"steps": STEPS})
    run.wait_steps(3)
    pod = lab.kubectl.get("pod", str(run.live().pod), lab.namespace)
    assert dig(pod, "spec", "nodeName") == node
    return run


@pytest.mark.parametrize("operator", ["there", "absent"])
def test_a_node_is_lost(lab: Lab, release: Release, away: str, operator: str) -> None:
    """Its lease lapses, and the next attempt starts elsewhere, though Kubernetes still places pods on the dead node;
    that it was the node is told when Kubernetes knows.
    """
    cluster = lab.platform.cluster
    run = begun(lab, away)
    try:
        if operator == "absent":
            release.scale("operator", 0)
        cluster.stop_kubelet(SECOND, power_off=True)
        eventually("the end of the attempt", lambda: run.attempts()[0].state == "ended", 40, diagnose=run.diagnose)
        acknowledged = len(run.records())
        release.scale("operator", 1)
        attempts = succeeded(run, STEPS)
        lost_to_infrastructure(run, attempts, {"LeaseExpired", "NodeLost"})
        resumed(attempts, acknowledged)
        eventually("the cause", lambda: run.attempts()[0].reason == "NodeLost", 90, diagnose=run.diagnose)
        told(run, "attempt 1", "NodeLost")
        assert run.attempts()[0].evidence["node"] == away
    finally:
        try:
            cluster.start_kubelet(SECOND)
        finally:
            release.scale("operator", 1)
    old = str(attempts[0].pod)
    eventually("the end of the old pod", lambda: over(lab, old), 60, diagnose=run.diagnose)


def test_a_node_is_drained(lab: Lab, away: str) -> None:
    run = begun(lab, away)
    try:
        lab.kubectl.run("drain", away, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s")
        attempts = succeeded(run, STEPS)
        lost_to_infrastructure(run, attempts, {"Drained"})
        resumed(attempts, 3)
        told(run, "attempt 1", "Drained", "infrastructure")
        pod = lab.kubectl.get("pod", str(attempts[1].pod), lab.namespace)
        assert dig(pod, "spec", "nodeName") != away
    finally:
        lab.kubectl.run("uncordon", away)
