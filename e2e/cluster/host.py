"""A Kubernetes on this very machine, from nothing: root on bare Linux is all it asks."""

import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from e2e.cluster import addons, leftovers, network, packages, storage
from e2e.cluster.binaries import binaries
from e2e.cluster.capabilities import Capability
from e2e.cluster.controlplane import AUDIT_LOG, ControlPlane
from e2e.cluster.kubectl import Kubectl
from e2e.cluster.layout import ADMIN, FIRST, LOCK, MOST_NODES, RANGES, SERVER, STATE, Place
from e2e.cluster.node import Node
from e2e.cluster.pki import Pki
from e2e.cluster.processes import Daemon, kill_all
from e2e.cluster.provider import checkout_kubeconfig
from e2e.cluster.shell import Problem, Result, locked, reach_directly, say, wait_until
from e2e.cluster.versions import kubernetes

PLACES = [Place(index) for index in range(MOST_NODES)]
BOOT = Path("/proc/sys/kernel/random/boot_id")
VERSION = STATE / "kubernetes"


class HostCluster:
    """One cluster a machine. All its state is in files and processes, so any checkout can take it over."""

    name = "host"
    kubeconfig = ADMIN
    capabilities = frozenset(Capability)
    image_builder = "buildah"
    own_programs = True
    audit_log = AUDIT_LOG

    def __init__(self) -> None:
        self.pki = Pki(STATE / "pki")

    @property
    def kubectl(self) -> Kubectl:
        return Kubectl(binaries() / "kubectl", ADMIN)

    def up(self, nodes: int = 1) -> None:
        """Have `nodes` nodes (1 or 2) Ready; a failed or interrupted first start is taken down again."""
        self._check()
        reach_directly(*RANGES)
        if not 1 <= nodes <= MOST_NODES:
            raise Problem(f"a cluster on this host has 1 to {MOST_NODES} nodes, not {nodes}")
        began = time.monotonic()
        programs = binaries()
        packages.ensure(packages.HOST, STATE.parent / "packages.log")
        with locked(LOCK, "the cluster"):
            if why := self._is_stale():
                say(f"{why}: it is cleared away")
                self._down()
            fresh = not ADMIN.exists()
            try:
                self._ensure(programs, nodes)
            except BaseException as error:
                if fresh:
                    if not isinstance(error, KeyboardInterrupt):
                        self._keep_logs()
                    say("the start did not succeed: taking down what there is")
                    self._down()
                raise
        say(f"cluster up in {time.monotonic() - began:.1f} s: {len(self._running())} nodes, kubeconfig {ADMIN}")

    def down(self) -> None:
        self._check()
        if packages.missing(packages.HOST):
            say("nothing to take down: this machine lacks what a cluster needs to have run")
            return
        with locked(LOCK, "the cluster"):
            self._down()
        if left := leftovers.leftovers():
            raise Problem(f"{len(left)} things could not be removed, the first of them: {'; '.join(left[:5])}")

    def remove_node(self) -> None:
        """Take away the node that came last, with all that runs there. Problem when there is but one."""
        with locked(LOCK, "the cluster"):
            *others, place = self._running()
            if not others:
                raise Problem(f"{place.name} is the only node: `down` ends a cluster")
            self._node(place).stop()  # first: a kubelet that runs does not register itself once more
            self.kubectl("delete", "node", place.name, "--ignore-not-found")
            network.remove_further(place)
            shutil.rmtree(place.home)

    def load_images(self, archive: Path) -> None:
        for place in self._running():
            self._node(place).load_images(archive)

    def node_names(self) -> list[str]:
        return [place.name for place in self._running()]

    def node_exec(self, node: int, argv: list[str]) -> Result:
        return self._node(PLACES[node]).exec(argv)

    def stop_kubelet(self, node: int, *, power_off: bool = False) -> None:
        if power_off:
            self._node(PLACES[node]).power_off()
        else:
            self._node(PLACES[node]).kubelet.kill()

    def start_kubelet(self, node: int) -> None:
        place = PLACES[node]
        self._node(place).ensure()
        self._wait_ready([place])

    def reach(self, namespace: str, service: str, port: int) -> str:
        """The Service's own address: this machine has a route to it."""
        address = self.kubectl.value("{.spec.clusterIP}", "service", service, "-n", namespace)
        if not address or address == "None":
            raise Problem(f"Service {namespace}/{service} has no address of its own")
        return f"{address}:{port}"

    def release_volumes(self) -> None:
        storage.release(self.kubectl, addons.VOLUMES)

    def escaped_packets(self) -> int:
        return network.escaped_packets()

    def status(self) -> list[str]:
        """One line per part: what runs, and since which process id."""
        if not STATE.exists():
            return ["no cluster on this machine"]
        plane = ControlPlane(binaries(), self.pki)
        dns = addons.dns(binaries(), self.pki)[0]
        parts = [plane.etcd, plane.apiserver, plane.kcm, plane.scheduler, dns]
        named = [("", daemon) for daemon in parts]
        for place in self._running():
            named += [(f"{place.name} ", daemon) for daemon in self._node(place).daemons()]
        lines = [f"{owner}{one.name}: {f'pid {one.pid()}' if one.pid() else 'not running'}" for owner, one in named]
        return [*lines, f"API server ready: {plane.ready()}", f"escaped packets: {self.escaped_packets()}"]

    def _ensure(self, programs: Path, nodes: int) -> None:
        STATE.mkdir(parents=True, exist_ok=True)
        (STATE / "boot").write_text(BOOT.read_text())
        VERSION.write_text(kubernetes())
        network.ensure_edge()
        network.ensure_first(FIRST)
        self.pki.ensure(SERVER, ["10.96.0.1", "127.0.0.1", FIRST.ip])
        plane = ControlPlane(programs, self.pki)
        if not plane.ready():
            say(f"Kubernetes {kubernetes()}: starting the control plane")
        plane.ensure_apiserver()
        kubectl = Kubectl(programs / "kubectl", self.pki.config("admin"))
        addons.ensure_objects(kubectl)
        plane.ensure_controllers()
        daemon, command, corefile = addons.dns(programs, self.pki)
        daemon.ensure(command, config=[corefile])
        wanted = sorted({*PLACES[:nodes], *self._running()}, key=lambda place: place.index)
        for place in wanted:
            if place != FIRST:
                network.ensure_further(place)
            new = not place.home.exists()
            if new:
                say(f"{place.name}: starting its runtime, network and kubelet")
            self._node(place).ensure()
            if new and place != FIRST:
                self._node(place).copy_images(self._node(FIRST))
        self._wait_ready(wanted, kubectl)
        for place in wanted:
            self._warm_once(kubectl, place)
        self._insist([plane.etcd, plane.apiserver, plane.kcm, plane.scheduler, daemon])
        for place in wanted:
            self._insist(self._node(place).daemons())
        self._publish()

    def _insist(self, daemons: Iterable[Daemon]) -> None:
        for daemon in daemons:
            if daemon.pid() is None:
                raise Problem(f"{daemon.name} ended right after its start:\n{daemon.last_words()}")

    def _warm_once(self, kubectl: Kubectl, place: Place) -> None:
        mark = place.run / "warmed"
        if not mark.exists():
            addons.warm(kubectl, place)
            mark.touch()

    def _wait_ready(self, places: list[Place], kubectl: Kubectl | None = None) -> None:
        speak = kubectl or self.kubectl
        names = [place.name for place in places]
        wait_until(f"Ready of {', '.join(names)}", lambda: speak.nodes_ready(names), 90)

    def _publish(self) -> None:
        for target in (ADMIN, checkout_kubeconfig()):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch(mode=0o600)
            target.write_text(self.pki.config("admin").read_text())

    def _down(self) -> None:
        made = STATE / "made-directories"
        directories = made.read_text().split() if made.exists() else []
        unbuilt = Path()  # stopping needs none of the programs
        known = [place for place in reversed(PLACES) if place.home.exists() or place.netns_file.exists()]
        nodes = [Node(place, unbuilt, self.pki) for place in known]
        for node in nodes:
            node.stop()
        if STATE.exists():
            addons.dns(unbuilt, self.pki)[0].stop()
            ControlPlane(unbuilt, self.pki).stop()
        kill_all(leftovers.processes())  # of a start that was cut short
        for node in nodes:
            node.stop()
        network.remove(PLACES)
        shutil.rmtree(STATE, ignore_errors=True)
        for directory in directories:
            _remove_if_empty(Path(directory))
        _remove_if_empty(STATE.parent)
        checkout_kubeconfig().unlink(missing_ok=True)

    def _keep_logs(self) -> None:
        kept = checkout_kubeconfig().parent / "cluster-logs"
        if not (STATE / "log").exists():
            return
        shutil.copytree(STATE / "log", kept, dirs_exist_ok=True, ignore_dangling_symlinks=True)
        say(f"its logs are kept in {kept}")

    def _is_stale(self) -> str:
        """Why a cluster that is there can't be adopted; empty when it can, or there is none."""
        boot = STATE / "boot"
        if boot.exists() and boot.read_text() != BOOT.read_text():
            return "the cluster is of before the last boot"
        if VERSION.exists() and VERSION.read_text() != kubernetes():
            return f"the cluster is Kubernetes {VERSION.read_text()}, not {kubernetes()}"
        return ""

    def _running(self) -> list[Place]:
        return [place for place in PLACES if place.home.exists() and place.netns_file.exists()]

    def _node(self, place: Place) -> Node:
        return Node(place, binaries(), self.pki)

    def _check(self) -> None:
        if sys.platform != "linux" or os.geteuid() != 0:
            raise Problem("a cluster on this host needs Linux and root: run it with sudo, or start Docker to use kind")


def _remove_if_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except (FileNotFoundError, OSError):
        return
