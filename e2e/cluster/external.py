"""A cluster that somebody else runs: used as it is."""

import json
import os
import shutil
from pathlib import Path

from e2e.cluster.capabilities import Capability, named
from e2e.cluster.kubectl import Kubectl
from e2e.cluster.shell import Problem, Result


class ExternalCluster:
    """Only what an API server offers: nodes and images are not ours to touch.

    MILEPOST_CLUSTER_CAN=network-policy says what else this one does, which nobody can see from here.
    """

    name = "external"
    image_builder = "buildah"
    own_programs = False
    audit_log = None

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.kubectl = Kubectl(shutil.which("kubectl") or "kubectl", kubeconfig)

    @property
    def capabilities(self) -> frozenset[Capability]:
        return named(os.environ.get("MILEPOST_CLUSTER_CAN", "")) & {Capability.NETWORK_POLICY}

    def up(self, nodes: int = 1) -> None:
        """Check that it answers and has nodes enough."""
        ready = self.kubectl.value('{.items[*].status.conditions[?(@.type=="Ready")].status}', "nodes").split()
        if ready.count("True") < nodes:
            raise Problem(f"the cluster of {self.kubeconfig} has {ready.count('True')} ready nodes, not {nodes}")

    def down(self) -> None:
        """Nothing: it is not ours to end."""

    def remove_node(self) -> None:
        raise Problem(f"cannot take a node from the cluster of {self.kubeconfig}: it is not ours")

    def load_images(self, archive: Path) -> None:
        raise Problem(f"push the images of {archive} to a registry that the cluster of {self.kubeconfig} pulls from")

    def node_names(self) -> list[str]:
        return self.kubectl.value("{.items[*].metadata.name}", "nodes").split()

    def node_exec(self, node: int, argv: list[str]) -> Result:
        raise Problem(f"cannot run {argv[0]} on node {node} of a cluster that is not ours")

    def stop_kubelet(self, node: int, *, power_off: bool = False) -> None:
        verb = "power off" if power_off else "stop the kubelet of"
        raise Problem(f"cannot {verb} node {node} of a cluster that is not ours")

    def start_kubelet(self, node: int) -> None:
        raise Problem(f"cannot start the kubelet of node {node} of a cluster that is not ours")

    def reach(self, namespace: str, service: str, port: int) -> str:
        """A node's address and the Service's node port."""
        found = json.loads(self.kubectl("get", "service", service, "-n", namespace, "-o", "json").stdout)
        node_port = next((one.get("nodePort") for one in found["spec"]["ports"] if one["port"] == port), None)
        if not node_port:
            raise Problem(f"Service {namespace}/{service} has no node port for {port}: make it of type NodePort")
        address = self.kubectl.value('{.items[0].status.addresses[?(@.type=="InternalIP")].address}', "nodes")
        return f"{address}:{node_port}"

    def release_volumes(self) -> None:
        """Nothing: its provisioner does that."""

    def escaped_packets(self) -> int:
        return -1
