"""Memory of what Milepost adds: each sidecar, and the control plane at rest (proportional set size)."""

from collections.abc import Sequence

from e2e.bench.bars import Bar
from e2e.cluster.capabilities import Capability
from e2e.harness.faults import Nodes
from e2e.harness.lab import Lab
from e2e.harness.programs import STEPS
from e2e.harness.release import NAMESPACE

MIB = 2**20
TARGET_SIDECAR = 30.0
TARGET_CONTROL_PLANE = 512.0


def measure(lab: Lab) -> Sequence[Bar]:
    """Read smaps_rollup of every process on the node; skipped where the node is not ours."""
    if not lab.platform.can(Capability.NODE_ACCESS):
        print("skipped: the cluster lacks node-access")
        return []
    nodes = Nodes(lab.platform)
    parts = {
        component: sum(pss(nodes, NAMESPACE, pod, component) for pod in lab.release.pod_names(component))
        for component in ("api", "operator", "postgres")
    }
    lab.task("steps", STEPS)
    run = lab.run(given={"steps": 60})
    run.wait_steps(5)
    pod = str(run.live().pod)
    sidecar = pss(nodes, lab.namespace, pod, "milepost-sidecar")
    runner = pss(nodes, lab.namespace, pod, "task")
    lab.kubectl.patch("run", run.name, {"spec": {"cancel": True}}, lab.namespace)
    return [
        *(Bar(f"{component}_pss", size / MIB, "MiB") for component, size in parts.items()),
        Bar("control_plane_pss", sum(parts.values()) / MIB, "MiB", TARGET_CONTROL_PLANE),
        Bar("sidecar_pss", sidecar / MIB, "MiB", TARGET_SIDECAR),
        Bar("runner_pss", runner / MIB, "MiB"),
    ]


def pss(nodes: Nodes, namespace: str, pod: str, container: str) -> float:
    """Sum the proportional set size of a container's processes, in bytes."""
    script = 'for p in "$@"; do cat /proc/$p/smaps_rollup 2>/dev/null; done'
    read = nodes.of_each(nodes.processes(namespace, pod, container), script)
    return 1024.0 * sum(int(line.split()[1]) for line in read.splitlines() if line.startswith("Pss:"))
