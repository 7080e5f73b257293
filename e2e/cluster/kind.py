"""Clusters in Docker containers, by kind: the way for laptops, and for any machine with a Docker engine."""

import json
import os
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster import dockerd, preflight, storage, versions
from e2e.cluster.binaries import binaries, kind_program
from e2e.cluster.capabilities import POD_PIDS, Capability
from e2e.cluster.kindimage import CGROUP_DRIVER, node_image
from e2e.cluster.kindnet import PODS, SERVICES, connect
from e2e.cluster.kubectl import Kubectl
from e2e.cluster.shell import Problem, Result, reach_directly, run, say, wait_until
from e2e.images.store import cache_directory

NAME = "milepost"
NODE_PORTS = range(30080, 30088)  # those that `reach` may hand out
LABEL = "milepost.dev/reach"
# A lost node is noticed in 8 s instead of 50, as in the cluster on the host; tests wait for it.
GRACE = {"name": "node-monitor-grace-period", "value": "8s"}
PATCH = {
    "group": "kubeadm.k8s.io",
    "version": "v1beta4",
    "kind": "ClusterConfiguration",
    "patch": json.dumps([{"op": "add", "path": "/controllerManager/extraArgs/-", "value": GRACE}]),
}
SCHEDULABLE = {"kind": "InitConfiguration", "nodeRegistration": {"taints": []}}
"""The control plane's node takes pods as well where it is not the only one: two nodes are two that can be lost."""
KUBELET = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "podPidsLimit": POD_PIDS}


class KindCluster:
    """A kind cluster named `milepost`.

    MILEPOST_KIND_IMAGE names the node image; `local` makes one here. By default an engine of the machine pulls kind's
    own, and the engine that is started here, which can pull nothing, gets the local one.
    """

    name = "kind"
    image_builder = "docker"
    own_programs = False
    audit_log = None

    def __init__(self) -> None:
        self.home = cache_directory("kind")
        self.kubeconfig = self.home / "kubeconfig"
        self.volumes = self.home / "volumes"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """kind's own node image brings a network that enforces policies; the one made here has only routes."""
        offered = {Capability.NODE_ACCESS, Capability.NODE_STOP, Capability.PIDS_LIMIT}
        offered |= set() if self._is_local() else {Capability.NETWORK_POLICY}
        offered |= {Capability.SECOND_NODE} if len(self._nodes()) > 1 else set()
        engine = dockerd.engine()
        offered |= {Capability.EDGE_COUNTER} if engine and dockerd.is_ours(engine) else set()
        return frozenset(offered)

    @property
    def kubectl(self) -> Kubectl:
        return Kubectl(shutil.which("kubectl") or binaries() / "kubectl", self.kubeconfig)

    def up(self, nodes: int = 1) -> None:
        """Have a cluster of at least `nodes` nodes; one that has fewer is made anew."""
        engine = dockerd.engine() or dockerd.start()
        reach_directly(dockerd.IP, "127.0.0.1")
        preflight.require(self._docker("info", "--format={{json .}}", check=False))
        image = self._image(engine)
        if why := self._unfit(engine, nodes, image):
            say(f"{why}: making it anew")
            self._kind("delete", "cluster")
        if not self._nodes():
            config = self.home / "cluster.json"
            config.write_text(json.dumps(self._config(engine, image, nodes)))
            if dockerd.is_ours(engine):
                self._own_network()
            self._kind("create", "cluster", f"--config={config}", f"--kubeconfig={self.kubeconfig}", timeout=600)
        self._kind("export", "kubeconfig", f"--kubeconfig={self.kubeconfig}")
        self._settle()

    def down(self) -> None:
        """Delete the cluster, and the engine with it when it was started here."""
        engine = dockerd.engine()
        if engine:
            self._kind("delete", "cluster", f"--kubeconfig={self.kubeconfig}")
        if engine is None or dockerd.is_ours(engine):
            dockerd.stop()
        for path in (self.kubeconfig, self.home / "cluster.json"):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.volumes, ignore_errors=True)

    def remove_node(self) -> None:
        raise Problem("a kind cluster keeps the nodes that it was made with: `down`, then `up` with other NODES")

    def load_images(self, archive: Path) -> None:
        self._kind("load", "image-archive", str(archive), timeout=600)

    def node_names(self) -> list[str]:
        return self._nodes()

    def node_exec(self, node: int, argv: list[str]) -> Result:
        return self._docker("exec", self._nodes()[node], *argv, check=False)

    def stop_kubelet(self, node: int, *, power_off: bool = False) -> None:
        name = self._nodes()[node]
        if power_off:
            self._docker("kill", name)
        else:
            self._docker("exec", name, "systemctl", "kill", "--signal=KILL", "kubelet")
            self._docker("exec", name, "systemctl", "stop", "kubelet")

    def start_kubelet(self, node: int) -> None:
        name = self._nodes()[node]
        self._docker("start", name)
        wait_until(f"systemd of {name}", lambda: self._systemd_is_up(name), 60)
        self._docker("exec", name, "systemctl", "start", "kubelet")
        self._settle()

    def reach(self, namespace: str, service: str, port: int) -> str:
        """A published node port; a Service of type NodePort beside the given one leads there."""
        found = json.loads(self.kubectl("get", "service", service, "-n", namespace, "-o", "json").stdout)
        wanted = next((one for one in found["spec"]["ports"] if one["port"] == port), None)
        if wanted is None:
            raise Problem(f"Service {namespace}/{service} has no port {port}")
        twin = f"{service[:50]}-reach-{port}"
        node_port = self.kubectl.value("{.spec.ports[0].nodePort}", "service", twin, "-n", namespace)
        if not node_port:
            node_port = str(self._free_node_port())
            spec = {
                "type": "NodePort",
                "selector": found["spec"]["selector"],
                "ports": [{"port": port, "targetPort": wanted["targetPort"], "nodePort": int(node_port)}],
            }
            meta = {"name": twin, "namespace": namespace, "labels": {LABEL: service}}
            self.kubectl.apply({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
        published = self._docker("port", self._nodes()[0], node_port).stdout.split()[0]
        self._await_rules(published)
        return published

    def release_volumes(self) -> None:
        if self._is_local():
            storage.release(self.kubectl, self.volumes)

    def escaped_packets(self) -> int:
        """None can leave an engine of ours, which has no route; of another's nobody counts them."""
        engine = dockerd.engine()
        return 0 if engine and dockerd.is_ours(engine) else -1

    def _settle(self) -> None:
        """What a cluster of the local image lacks: pod network and volumes. Then wait for the nodes."""
        if self._is_local():
            connect(self.kubectl, lambda name, script: self._docker("exec", name, "sh", "-euc", script))
            storage.ensure(self.kubectl, self.volumes)
        running = self._docker("ps", "--filter", f"label=io.x-k8s.kind.cluster={NAME}", "--format={{.Names}}")
        names = running.stdout.split()
        wait_until("the nodes of the kind cluster", lambda: self.kubectl.nodes_ready(names), 180, 0.5)
        account = ("serviceaccount", "default", "-n", "default")
        wait_until("the default ServiceAccount", lambda: bool(self.kubectl.value("{.metadata.name}", *account)), 60)

    def _config(self, engine: str, image: str, nodes: int) -> dict[str, object]:
        ours = dockerd.is_ours(engine)
        address = dockerd.IP if ours else "127.0.0.1"
        # kind looks for free ports on its own machine; in a network of our own they are all free, and it cannot look.
        ports = [
            {"containerPort": port, "hostPort": port if ours else 0, "listenAddress": address} for port in NODE_PORTS
        ]
        local = image.startswith("milepost.local/")
        mounts = [{"hostPath": str(self.volumes), "containerPath": str(self.volumes)}] if local else []
        if local:
            self.volumes.mkdir(parents=True, exist_ok=True)
        roles = ["control-plane", *["worker"] * (nodes - 1)]
        members: list[dict[str, object]] = [{"role": role, "extraMounts": mounts} for role in roles]
        for member in members:
            member.update({"image": image} if image else {})
        members[0]["extraPortMappings"] = ports
        networking: dict[str, object] = {"podSubnet": PODS, "serviceSubnet": SERVICES, "disableDefaultCNI": local}
        if ours:
            networking |= {"apiServerAddress": address, "apiServerPort": 6443, "ipFamily": "ipv4"}
        head = {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "name": NAME}
        kubelet = KUBELET | ({"cgroupDriver": CGROUP_DRIVER} if local else {})
        # kind itself takes the taint of a lone node away, and fails where there is none
        spread = [SCHEDULABLE] if nodes > 1 else []
        patches = {
            "kubeadmConfigPatches": [json.dumps(patch) for patch in (kubelet, *spread)],
            "kubeadmConfigPatchesJSON6902": [PATCH],
        }
        return {**head, "networking": networking, "nodes": members, **patches}

    def _image(self, engine: str) -> str:
        """The node image to use, loaded where it was made here; empty for kind's own choice."""
        chosen = os.environ.get("MILEPOST_KIND_IMAGE") or ("local" if dockerd.is_ours(engine) else "")
        if chosen != "local":
            newest = versions.chosen() == versions.NEWEST
            return chosen or ("" if newest else f"kindest/node:v{versions.kubernetes()}")
        ref, archive = node_image()
        if self._docker("image", "inspect", ref, check=False).returncode:
            self._docker("load", "--quiet", "--input", str(archive), timeout=300)
        return ref

    def _await_rules(self, published: str) -> None:
        """Give kube-proxy a moment to write the rules of a new node port; a Service without pods refuses for ever."""
        address, _, port = published.rpartition(":")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection((address, int(port)), timeout=1).close()
            except OSError:
                time.sleep(0.2)
            else:
                return

    def _own_network(self) -> None:
        """Make kind's network beforehand: by itself it would ask for IPv6, which this engine has not."""
        if self._docker("network", "inspect", "kind", check=False).returncode:
            self._docker("network", "create", "--driver=bridge", f"--subnet={dockerd.KIND_SUBNET}", "kind")

    def _unfit(self, engine: str, nodes: int, image: str) -> str:
        """Why a cluster that is there can't be adopted; empty when it can, or there is none."""
        present = self._nodes()
        if not present:
            return ""
        published = self._docker("inspect", "--format={{json .HostConfig.PortBindings}}", present[0]).stdout
        if f'"{NODE_PORTS[0]}/tcp"' not in published:
            raise Problem(preflight.foreign(NAME))
        if len(present) < nodes:
            return f"the kind cluster has {len(present)} nodes, not {nodes}"
        if image and self._made_of() != image:
            return f"the kind cluster is made of {self._made_of()}, not {image}"
        if self._asked_for() != json.dumps(self._config(engine, image, len(present))):
            return "the kind cluster has other settings than it would have now"
        return ""

    def _asked_for(self) -> str:
        """What the cluster that is there was made from; empty when that is not known."""
        config = self.home / "cluster.json"
        return config.read_text() if config.exists() else ""

    def _is_local(self) -> bool:
        return self._made_of().startswith("milepost.local/")

    def _made_of(self) -> str:
        return self._docker("inspect", "--format={{.Config.Image}}", self._nodes()[0]).stdout.strip()

    def _nodes(self) -> list[str]:
        """The names of the nodes' containers, running or not: the control plane, then the workers in order."""
        label = f"label=io.x-k8s.kind.cluster={NAME}"
        names = self._docker("ps", "--all", "--filter", label, "--format={{.Names}}").stdout.split()
        return sorted(names, key=lambda name: ("control-plane" not in name, len(name), name))

    def _free_node_port(self) -> int:
        path = "{.items[*].spec.ports[*].nodePort}"
        taken = {int(word) for word in self.kubectl.value(path, "services", "--all-namespaces").split()}
        free = [port for port in NODE_PORTS if port not in taken]
        if not free:
            raise Problem(f"all published node ports are in use: delete Services labelled {LABEL}")
        return free[0]

    def _systemd_is_up(self, name: str) -> bool:
        asked = self._docker("exec", name, "systemctl", "is-active", "containerd", check=False)
        return asked.stdout.strip() == "active"

    def _kind(self, verb: str, what: str, *options: str, timeout: float = 180) -> None:
        self._run([kind_program(), verb, what, *options, f"--name={NAME}"], timeout=timeout)

    def _docker(self, *words: str, check: bool = True, timeout: float = 120) -> Result:
        return self._run([dockerd.client(), *words], check=check, timeout=timeout)

    def _run(self, argv: Sequence[str | Path], *, check: bool = True, timeout: float = 120) -> Result:
        engine = dockerd.engine()
        if engine is None:
            raise Problem("no Docker engine answers: `python -m e2e.cluster up` starts one where it can")
        path = f"{dockerd.client().parent}{os.pathsep}{os.environ.get('PATH', '')}"
        words: list[str | Path] = ["env", f"DOCKER_HOST={engine}", f"PATH={path}", "KIND_EXPERIMENTAL_PROVIDER=docker"]
        return run([*words, *argv], check=check, timeout=timeout)
