"""Faults, made from outside: with kubectl where a user could, with signals on the node where only a machine can."""

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from e2e.harness.kubectl import Object, dig, objects
from e2e.harness.lab import Run
from e2e.harness.platform import Platform
from e2e.harness.release import NAME, NAMESPACE, Release
from e2e.harness.wait import eventually

# Prints "pid parent" of every process whose control group names the container: works on the host and in kind's nodes.
PROCESSES = (
    'for f in $(grep -ls "$0" /proc/[0-9]*/cgroup 2>/dev/null); do p=${f#/proc/}; p=${p%/cgroup}; '
    "[ -r /proc/$p/status ] && echo \"$p $(awk '/^PPid:/ {print $2}' /proc/$p/status)\"; done"
)


@dataclass(frozen=True, order=True)
class Process:
    """A process of a container, by its number on its node."""

    node: int
    pid: int
    parent: int


def below_first(processes: Sequence[Process]) -> list[Process]:
    """Those that others of them have started: the task under its runner."""
    pids = {process.pid for process in processes}
    return [process for process in processes if process.parent in pids]


@dataclass(frozen=True)
class Nodes:
    """Processes of containers on the nodes. Needs a cluster whose machine is ours (host, kind)."""

    platform: Platform

    def processes(self, namespace: str, pod: str, container: str) -> list[Process]:
        """Those of one container."""
        found: Object = {}

        def identity() -> str:
            nonlocal found
            found = self.platform.kubectl.get("pod", pod, namespace)
            return _container_id(found, container)

        # a run can be over before its kubelet has said that the container runs
        known = eventually(f"container {container} of {namespace}/{pod}", identity, 20, diagnose=lambda: str(found))
        node = self.number_of(found)
        listed = self.on(node, "sh", "-c", PROCESSES, known)
        pairs = [line.split() for line in listed.splitlines() if " " in line]
        return [Process(node, int(pid), int(parent)) for pid, parent in pairs]

    def number_of(self, pod: Object) -> int:
        """The number of the node that a pod is on."""
        return self.platform.cluster.node_names().index(str(dig(pod, "spec", "nodeName")))

    def on(self, node: int, *words: str) -> str:
        """Run a program on a node, and give what it printed, whatever became of it."""
        return self.platform.cluster.node_exec(node, list(words)).stdout

    def of_each(self, processes: Sequence[Process], script: str) -> str:
        """Run shell commands on the nodes of the processes, whose numbers there are its arguments; what they print."""
        on: dict[int, list[str]] = {}
        for process in processes:
            on.setdefault(process.node, []).append(str(process.pid))
        return "".join(self.on(node, "sh", "-c", script, "sh", *pids) for node, pids in on.items())

    def signal(self, processes: Sequence[Process], number: signal.Signals) -> None:
        """Send a signal; a process that is gone already is no error."""
        if not processes:
            raise AssertionError(f"no process to send {number.name} to")
        self.of_each(processes, f'kill -{number.value} "$@"')

    def kill(self, namespace: str, pod: str, container: str, which: Literal["child", "all"] = "all") -> None:
        """SIGKILL to a container's processes, or only to those below its first one (the task under its runner)."""
        found = self.processes(namespace, pod, container)
        self.signal(below_first(found) if which == "child" else found, signal.SIGKILL)

    def freeze(self, namespace: str, pod: str, *containers: str) -> list[Process]:
        """SIGSTOP to all processes of the containers; give the result to `thaw`."""
        found = [process for name in containers for process in self.processes(namespace, pod, name)]
        self.signal(found, signal.SIGSTOP)
        return found

    def thaw(self, processes: Sequence[Process]) -> None:
        self.signal(processes, signal.SIGCONT)

    def in_mounts(self, process: Process, *words: str) -> str:
        """Run a program of the node within the mounts of a process, as root."""
        entered = ["nsenter", f"--target={process.pid}", "--mount", *words]
        done = self.platform.cluster.node_exec(process.node, entered)
        if done.returncode:
            raise AssertionError(f"{' '.join(words)} failed: {done.stderr.strip()}")
        return done.stdout


def _container_id(pod: Object, container: str) -> str:
    """Empty while its kubelet has told none."""
    status = dig(pod, "status")
    known = [*objects(dig(status, "containerStatuses") or []), *objects(dig(status, "initContainerStatuses") or [])]
    told = next((str(one.get("containerID") or "") for one in known if one["name"] == container), "")
    return told.rpartition("/")[2]


def delete_pod(run: Run, *, force: bool = True) -> str:
    """Delete the pod of the run's live attempt; returns its name."""
    pod = str(run.live().pod)
    flags = ["--grace-period=0", "--force"] if force else ["--wait=false"]
    run.lab.kubectl.delete("pod", pod, run.lab.namespace, *flags)
    return pod


def delete_job(run: Run) -> None:
    """Delete the Job of the run's live attempt by hand."""
    run.lab.kubectl.delete("job", f"mp-{run.live().pod_id}", run.lab.namespace, "--wait=false")


def kill_component(release: Release, component: str) -> None:
    """Kill every pod of a component without a goodbye, and return when new ones are ready."""
    old = {dig(pod, "metadata", "uid") for pod in release.pods(component)}
    names = release.pod_names(component)
    release.kubectl.run("delete", "pod", *names, "-n", NAMESPACE, "--grace-period=0", "--force")

    def replaced() -> bool:
        return any(dig(pod, "metadata", "uid") not in old for pod in release.pods(component))

    eventually("new pods", replaced, 60, diagnose=release.diagnose)
    release.wait_ready()


def outage(release: Release, component: str, seconds: float) -> None:
    """Have no pod of a component for some seconds, then as many as before."""
    before = max(1, len(release.pods(component)))
    release.scale(component, 0)
    time.sleep(seconds)
    release.scale(component, before)


def leader(release: Release) -> str:
    """Name of the operator pod that holds the Lease."""
    lease = release.kubectl.find("lease", f"{NAME}-operator", NAMESPACE)
    return str(dig(lease, "spec", "holderIdentity") or "")
