"""One node: a mount namespace with containerd, Felix, the kubelet and kube-proxy in it."""

import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from e2e.cluster import cgroups, nodeconfig
from e2e.cluster.binaries import PAUSE_IMAGE, pause_archive
from e2e.cluster.layout import PODS, STATE, Place
from e2e.cluster.pki import Pki
from e2e.cluster.processes import PATH, Daemon, kill_all, pids_in_namespaces
from e2e.cluster.shell import Problem, run, wait_until

# Directories that programs insist on, and where the node really keeps them. They are bound inside its mount namespace,
# so nodes do not meet, a container engine of this machine is not touched, and nothing is left when the namespace ends.
BINDS = {
    "/run/netns": "netns",
    "/run/containerd": "containerd-run",
    "/run/calico": "calico-run",
    "/var/lib/kubelet": "kubelet",
    "/var/lib/calico": "calico",
    "/var/lib/cni": "cni-lib",
    "/var/log/containers": "log-containers",
}
HEALTH_PORT = 9099


class Node:
    """Starts what is not running of the node, and stops all of it."""

    def __init__(self, place: Place, binaries: Path, pki: Pki) -> None:
        self.place = place
        self.binaries = binaries
        self.pki = pki
        self.mounts, self.containerd, self.felix, self.kubelet, self.proxy = (
            Daemon(name, place.run, place.log) for name in ("mounts", "containerd", "felix", "kubelet", "kube-proxy")
        )

    def ensure(self) -> None:
        """Start or repair the node; Felix first, so that no pod ever runs without its policy chains."""
        if self.mounts.pid() is None:
            self.stop()  # without its mounts nothing else of it can work
            self._mount()
        self.pki.issue(self.place.name, f"/O=system:nodes/CN=system:node:{self.place.name}")
        self.pki.kubeconfig(self.place.name, nodeconfig.SERVER)
        nodeconfig.write(self.place, self.binaries, self.pki)
        self.ensure_containerd()
        self.ensure_felix()
        self.ensure_kubelet()
        proxy = [f"--kubeconfig={self.pki.config('proxy')}", f"--hostname-override={self.place.name}"]
        tuning = [f"--cluster-cidr={PODS}", "--proxy-mode=iptables", "--conntrack-max-per-core=0"]
        self.proxy.ensure([*self.inside(), self.binaries / "kube-proxy", *proxy, *tuning])

    def ensure_containerd(self) -> None:
        path = {"PATH": f"{self.binaries}:{PATH}"}
        config = self.place.home / "containerd.toml"
        command = [*self.inside(), self.binaries / "containerd", "-c", config]
        if not self.containerd.ensure(command, path, [config]):
            return
        wait_until(f"containerd of {self.place.name}", lambda: self.exec(["ctr", "version"]).returncode == 0, 30)
        if PAUSE_IMAGE not in self.exec(["ctr", "images", "ls", "-q"]).stdout.split():
            self.load_images(pause_archive())

    def ensure_felix(self) -> None:
        # Felix ends itself, by design, when its configuration in the cluster changes: hence the loop.
        loop: list[str | Path] = ["sh", "-c", 'while :; do "$0"; sleep 0.2; done', self.binaries / "calico-felix"]
        started = self.felix.ensure([*self.inside(), *loop], nodeconfig.felix_environment(self.place, self.pki))
        if started:
            wait_until(f"Felix of {self.place.name}", self.felix_ready, 60)

    def ensure_kubelet(self) -> None:
        cgroups.ensure(self.place.cgroup)
        config = self.place.home / "kubelet.json"
        files = [f"--config={config}", f"--kubeconfig={self.pki.config(self.place.name)}"]
        names = [f"--hostname-override={self.place.name}", f"--node-ip={self.place.ip}"]
        self.kubelet.ensure([*self.inside(), self.binaries / "kubelet", *files, *names], config=[config])

    def felix_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.place.ip}:{HEALTH_PORT}/readiness", timeout=2) as answer:
                return 200 <= int(answer.status) < 300
        except (urllib.error.URLError, OSError):
            return False

    def daemons(self) -> tuple[Daemon, ...]:
        return (self.kubelet, self.proxy, self.felix, self.containerd)

    def inside(self) -> list[str | Path]:
        """The words that run a program in the node's network and mounts."""
        pid = self.mounts.pid()
        if pid is None:
            raise Problem(f"{self.place.name} does not run: `python -m e2e.cluster up` starts or repairs it")
        return [*self.place.in_network(), f"--mount=/proc/{pid}/ns/mnt"]

    def exec(self, argv: list[str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a program there; `ctr` speaks to the node's containerd, in the namespace of the kubelet's images."""
        environment = [f"PATH={self.binaries}:{PATH}", "CONTAINERD_NAMESPACE=k8s.io"]
        return run([*self.inside(), "env", *environment, *argv], check=False, timeout=timeout)

    def load_images(self, archive: Path) -> None:
        done = self.exec(["ctr", "images", "import", str(archive.resolve())], timeout=600)
        if done.returncode:
            raise Problem(f"{self.place.name} cannot import {archive}: {done.stderr.strip()[-500:]}")

    def copy_images(self, source: "Node") -> None:
        """Give this node the images that `source` was given before it came."""
        listed = source.exec(["ctr", "images", "ls", "-q"]).stdout.split()
        names = [name for name in listed if not name.startswith("sha256:") and name != PAUSE_IMAGE]
        if names:
            archive = self.place.home / "images.tar"
            # Through containerd's transfer service the last blocks are lost now and then.
            done = source.exec(["ctr", "images", "export", "--local", str(archive), *names], timeout=600)
            if done.returncode:
                raise Problem(f"{source.place.name} cannot export its images: {done.stderr.strip()[-500:]}")
            self.load_images(archive)
            archive.unlink()

    def power_off(self) -> None:
        """What a lost machine looks like: daemons, shims and containers are gone at once, the network is silent."""
        for daemon in self.daemons():
            daemon.kill()
        holder = self.mounts.pid()
        kill_all(cgroups.members(self.place.cgroup))
        kill_all(self._residents() - ({holder} if holder else set()))

    def stop(self) -> None:
        """End everything of the node, politely where that matters, and remove its control groups."""
        self.kubelet.stop()
        self.proxy.stop()
        self.felix.stop()
        kill_all(cgroups.members(self.place.cgroup))
        self.containerd.stop()
        kill_all(self._residents())
        self.mounts.stop()
        cgroups.remove(self.place.cgroup)

    def _residents(self) -> set[int]:
        """Processes in the node's mount namespace: daemons, shims, plugins, and the holder of the namespace."""
        pid = self.mounts.pid()
        return pids_in_namespaces({Path(f"/proc/{pid}/ns/mnt").stat().st_ino}) if pid else set()

    def _mount(self) -> None:
        made = STATE / "made-directories"
        script = ["set -e", "mount --make-rprivate /"]
        for target, name in BINDS.items():
            source = self.place.home / name
            source.mkdir(parents=True, exist_ok=True)
            if not Path(target).exists():
                Path(target).mkdir(parents=True)
                with made.open("a") as listing:
                    listing.write(f"{target}\n")
            script.append(f"mount --bind {source} {target}")
        ready = self.place.run / "mounted"
        ready.unlink(missing_ok=True)
        script += ["mount --make-rshared /", f"touch {ready}", "exec sleep infinity"]
        self.mounts.ensure(["unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(script)])
        wait_until(f"the mounts of {self.place.name}", ready.exists, 10, 0.02)
