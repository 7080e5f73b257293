"""Faults, made from outside: with kubectl where a user could, with signals on the node where only a machine can."""

import signal
import time
from dataclasses import dataclass
from typing import Literal

from e2e.harness.kubectl import dig, objects
from e2e.harness.lab import Run
from e2e.harness.platform import Platform
from e2e.harness.release import NAME, NAMESPACE, Release
from e2e.harness.wait import eventually

# Prints "pid parent" of every process whose control group names the container: works on the host and in kind's nodes.
PROCESSES = (
    'for f in $(grep -ls "$0" /proc/[0-9]*/cgroup 2>/dev/null); do p=${f#/proc/}; p=${p%/cgroup}; '
    "[ -r /proc/$p/status ] && echo \"$p $(awk '/^PPid:/ {print $2}' /proc/$p/status)\"; done"
)


@dataclass(frozen=True)
class Nodes:
    """Processes of containers on the nodes. Needs a cluster whose machine is ours (host, kind)."""

    platform: Platform

    def processes(self, namespace: str, pod: str, container: str) -> dict[int, int]:
        """Process ids of one container, each with its parent's."""
        identity = self._container_id(namespace, pod, container)
        listed = self.platform.cluster.node_exec(0, ["sh", "-c", PROCESSES, identity]).stdout
        return {int(pid): int(parent) for pid, parent in (line.split() for line in listed.splitlines() if " " in line)}

    def signal(self, pids: list[int], number: signal.Signals) -> None:
        """Send a signal; a process that is gone already is no error."""
        if not pids:
            raise AssertionError(f"no process to send {number.name} to")
        self.platform.cluster.node_exec(0, ["kill", f"-{number.value}", *map(str, pids)])

    def kill(self, namespace: str, pod: str, container: str, which: Literal["child", "all"] = "all") -> None:
        """SIGKILL to a container's processes, or only to those below its first one (the task under its runner)."""
        pids = self.processes(namespace, pod, container)
        children = [pid for pid, parent in pids.items() if parent in pids]
        self.signal(children if which == "child" else list(pids), signal.SIGKILL)

    def freeze(self, namespace: str, pod: str, *containers: str) -> list[int]:
        """SIGSTOP to all processes of the containers; give the result to `thaw`."""
        pids = [pid for name in containers for pid in self.processes(namespace, pod, name)]
        self.signal(pids, signal.SIGSTOP)
        return pids

    def thaw(self, pids: list[int]) -> None:
        self.signal(pids, signal.SIGCONT)

    def in_mounts(self, pid: int, *words: str) -> str:
        """Run a program of the node within the mounts of a process, as root."""
        done = self.platform.cluster.node_exec(0, ["nsenter", f"--target={pid}", "--mount", *words])
        if done.returncode:
            raise AssertionError(f"{' '.join(words)} failed: {done.stderr.strip()}")
        return done.stdout

    def _container_id(self, namespace: str, pod: str, container: str) -> str:
        status = dig(self.platform.kubectl.get("pod", pod, namespace), "status")
        known = [*objects(dig(status, "containerStatuses") or []), *objects(dig(status, "initContainerStatuses") or [])]
        for one in known:
            if one["name"] == container and one.get("containerID"):
                return str(one["containerID"]).rpartition("/")[2]
        raise AssertionError(f"container {container} of {namespace}/{pod} does not run: {known}")


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
