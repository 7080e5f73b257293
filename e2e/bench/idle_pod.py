"""What a pod costs that waits for work: memory of the sidecar and of the parent, and their processor time."""

import time
from collections.abc import Sequence

from e2e.bench.bars import Bar
from e2e.bench.footprint import MIB, pss
from e2e.bench.peers import RESOURCES
from e2e.bench.programs import NOOP
from e2e.bench.warm_start import KEPT, prime, queue
from e2e.cluster.capabilities import Capability
from e2e.harness import warm
from e2e.harness.faults import Nodes, Process
from e2e.harness.lab import Lab

CONTAINERS = ("milepost-sidecar", "task")
SECONDS = 60.0
TARGET_PSS = 50.0  # MiB
TARGET_CPU = 2.0  # millicores


def measure(lab: Lab) -> Sequence[Bar]:
    """One pod that had some runs; skipped where the node is not ours."""
    if not lab.platform.can(Capability.NODE_ACCESS):
        print("skipped: the cluster lacks node-access")
        return []
    nodes = Nodes(lab.platform)
    queue(lab)
    lab.task("noop", NOOP, queue="start", resources=RESOURCES, warm=KEPT)
    for _ in range(3):
        prime(lab, "noop", 1)
    (slot,) = warm.idle(lab, "noop")
    pod = str(slot.pod)
    sizes = {name: pss(nodes, lab.namespace, pod, name) / MIB for name in CONTAINERS}
    processes = [process for name in CONTAINERS for process in nodes.processes(lab.namespace, pod, name)]
    before, begun = used(nodes, processes), time.monotonic()
    time.sleep(SECONDS)
    millicores = (used(nodes, processes) - before) / (time.monotonic() - begun) * 1000
    return [
        *(Bar(f"idle_{name.removeprefix('milepost-')}_pss", size, "MiB") for name, size in sizes.items()),
        Bar("idle_pod_pss", sum(sizes.values()), "MiB", TARGET_PSS),
        Bar("idle_pod_cpu", millicores, "millicores", TARGET_CPU),
    ]


def used(nodes: Nodes, processes: Sequence[Process]) -> float:
    """Seconds of processor time that the threads of these processes had so far."""
    script = 'for p in "$@"; do cat /proc/$p/task/*/schedstat 2>/dev/null; done'
    spent = [int(line.split()[0]) for line in nodes.of_each(processes, script).splitlines()]
    if not spent:
        raise RuntimeError("the kernel tells no processor time of threads (schedstat)")
    return sum(spent) / 1e9
