"""The host cluster from nothing to nothing. Destructive: it takes down the cluster of this machine."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from e2e.cluster.controlplane import AUDIT_LOG
from e2e.cluster.host import HostCluster
from e2e.cluster.layout import STATE
from e2e.cluster.leftovers import leftovers
from e2e.cluster.shell import Problem, wait_until
from e2e.tests import probe
from e2e.tests.starts import DESTRUCTIVE, start

SPACE = "lifecycle"

pytestmark = DESTRUCTIVE


@pytest.mark.parametrize("delay", [0.2, 1, 3, 5, 7])
def test_an_interrupted_start_leaves_nothing(delay: float) -> None:
    HostCluster().down()
    process = start("host")
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert leftovers() == []


@pytest.mark.parametrize("delay", [0.3, 2, 5])
def test_a_killed_start_is_cleared_by_down(delay: float) -> None:
    HostCluster().down()
    process = start("host")
    time.sleep(delay)
    process.kill()
    process.wait(10)
    HostCluster().down()
    assert leftovers() == []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostCluster]:
    """Two nodes with the probe image and two web servers, one on each."""
    cluster = HostCluster()
    cluster.down()
    cluster.up()
    cluster.load_images(probe.archive(tmp_path_factory.mktemp("probe")))
    cluster.up(nodes=2)
    kubectl = cluster.kubectl
    kubectl("create", "namespace", SPACE)
    service = {"selector": {"app": "far"}, "ports": [{"port": 80, "targetPort": probe.PORT}]}
    metadata = {"name": "far", "namespace": SPACE}
    for pod in (probe.pod("near", "node0"), probe.pod("far", "node1")):
        kubectl("create", "-n", SPACE, "-f", "-", text_in=json.dumps(pod))
    kubectl.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service})
    kubectl("wait", "-n", SPACE, "--for=condition=Ready", "pod/near", "pod/far", "--timeout=60s")
    yield cluster
    cluster.down()
    assert leftovers() == []


def test_a_running_cluster_is_adopted_at_once(cluster: HostCluster) -> None:
    before = cluster.status()
    began = time.monotonic()
    cluster.up(nodes=2)
    assert time.monotonic() - began < 3
    assert cluster.status() == before


@pytest.mark.parametrize(
    "part", ["kube-apiserver", "etcd", "coredns", "node0/kubelet", "node1/containerd", "node1/felix"]
)
def test_a_killed_part_is_repaired(cluster: HostCluster, part: str) -> None:
    node, _, name = part.rpartition("/")
    pidfile = STATE / node / "run" / f"{name}.pid"
    os.kill(json.loads(pidfile.read_text())["pid"], signal.SIGKILL)
    cluster.up(nodes=2)
    assert cluster.kubectl.nodes_ready(["node0", "node1"])
    assert not [line for line in cluster.status() if "not running" in line]


def test_pods_and_services_are_reached_across_nodes(cluster: HostCluster) -> None:
    kubectl = cluster.kubectl
    address = kubectl.value("{.status.podIP}", "pod", "far", "-n", SPACE)
    service = kubectl.value("{.spec.clusterIP}", "service", "far", "-n", SPACE)
    assert probe.reaches(kubectl, SPACE, "near", address)
    wait_until("the Service", lambda: probe.reaches(kubectl, SPACE, "near", service, 80), 20)
    looked_up = kubectl("exec", "-n", SPACE, "near", "--", "busybox", "nslookup", f"far.{SPACE}.svc.cluster.local")
    assert service in looked_up.stdout
    assert subprocess.run(["curl", "-fsS", "-m", "5", cluster.reach(SPACE, "far", 80)], check=False).returncode == 0


def test_network_policy_is_enforced(cluster: HostCluster) -> None:
    kubectl = cluster.kubectl
    address = kubectl.value("{.status.podIP}", "pod", "far", "-n", SPACE)
    deny = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": SPACE},
        "spec": {"podSelector": {"matchLabels": {"app": "far"}}, "policyTypes": ["Ingress"]},
    }
    kubectl.apply(deny)
    wait_until("the denial", lambda: not probe.reaches(kubectl, SPACE, "near", address), 10)
    kubectl("delete", "networkpolicy", "deny", "-n", SPACE)
    wait_until("its end", lambda: probe.reaches(kubectl, SPACE, "near", address), 10)


def test_nothing_leaves_the_machine(cluster: HostCluster) -> None:
    knock = ["busybox", "nc", "-w", "1", "203.0.113.9", "80"]
    for pod in ("near", "far"):
        assert cluster.kubectl("exec", "-n", SPACE, pod, "--", *knock, check=False).returncode != 0
    assert cluster.escaped_packets() == 0


def test_claims_bind_and_their_volumes_can_be_used_again(cluster: HostCluster) -> None:
    kubectl = cluster.kubectl
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": SPACE},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
    mount = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    user = {"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532}
    writer = probe.pod(
        "writer",
        command="echo 1 > /data/x",
        container=mount,
        volumes=[volume],
        restartPolicy="Never",
        securityContext=user,
    )
    kubectl.apply(claim)
    kubectl("create", "-n", SPACE, "-f", "-", text_in=json.dumps(writer))
    kubectl("wait", "-n", SPACE, "--for=jsonpath={.status.phase}=Succeeded", "pod/writer", "--timeout=60s")
    kubectl("delete", "-n", SPACE, "pod/writer", "pvc/data", "--wait=true")
    free = ("{.items[*].status.phase}", "pv")
    wait_until("the release", lambda: "Released" in kubectl.value(*free), 20)
    cluster.release_volumes()
    wait_until("free volumes", lambda: set(kubectl.value(*free).split()) == {"Available"}, 20)
    assert not list((STATE / "volumes").glob("*/x"))


def test_writes_are_recorded_once_each(cluster: HostCluster) -> None:
    cluster.kubectl("create", "configmap", "audited", "-n", SPACE)

    def recorded() -> list[dict[str, object]]:
        entries = [json.loads(line) for line in AUDIT_LOG.read_text().splitlines()]
        return [entry for entry in entries if entry.get("objectRef", {}).get("name") == "audited"]

    wait_until("the audit record", lambda: bool(recorded()), 10)
    (entry,) = recorded()
    assert (entry["verb"], entry["stage"], entry["user"]["username"]) == ("create", "ResponseComplete", "admin")  # type: ignore[index]


def test_a_lost_node_is_seen_and_comes_back(cluster: HostCluster) -> None:
    kubectl = cluster.kubectl
    cluster.stop_kubelet(1, power_off=True)
    wait_until("the loss", lambda: not kubectl.nodes_ready(["node1"]), 20)
    cluster.start_kubelet(1)
    address = ("{.status.podIP}", "pod", "far", "-n", SPACE)
    wait_until("its pod", lambda: probe.reaches(kubectl, SPACE, "near", kubectl.value(*address)), 60)


def test_the_second_node_goes_and_comes_back(cluster: HostCluster) -> None:
    """Another start gives it anew, and its pods reach those of the first."""
    kubectl = cluster.kubectl
    cluster.remove_node()
    assert cluster.node_names() == ["node0"]
    assert kubectl.value("{.items[*].metadata.name}", "nodes") == "node0"
    with pytest.raises(Problem, match="node0 is the only node"):
        cluster.remove_node()
    cluster.up(nodes=2)
    kubectl("delete", "pod", "far", "-n", SPACE, "--force", "--grace-period=0", "--ignore-not-found")
    kubectl("create", "-n", SPACE, "-f", "-", text_in=json.dumps(probe.pod("far", "node1")))
    address = ("{.status.podIP}", "pod", "far", "-n", SPACE)
    wait_until("its pod", lambda: probe.reaches(kubectl, SPACE, "near", kubectl.value(*address)), 60)
