"""From the death of a pod to user code of the next attempt, in a new pod."""

import signal
import time
from collections.abc import Sequence

from e2e.bench.bars import Bar, percentile
from e2e.bench.programs import RESUME
from e2e.cluster.capabilities import Capability
from e2e.harness.faults import Nodes
from e2e.harness.lab import COLD, Lab
from e2e.harness.wait import eventually

RUNS = 10
TARGET_P50 = 4.0  # seconds


def measure(lab: Lab) -> Sequence[Bar]:
    """Kill the task's container, or delete the pod by force where the node can't be reached."""
    lab.task("resume", RESUME, warm=COLD)
    taken = [once(lab) for _ in range(RUNS)]
    return [Bar("recover_p50", percentile(taken, 50), "s", TARGET_P50), Bar("recover_max", max(taken), "s")]


def once(lab: Lab) -> float:
    run = lab.run("resume")
    count = f"select count(*) from records where run_id = '{run.id}'"
    eventually("a record", lambda: lab.sql.value(count) == 1, 60, diagnose=run.diagnose)
    pod = str(run.live().pod)
    if lab.platform.can(Capability.NODE_ACCESS):
        nodes = Nodes(lab.platform)
        processes = nodes.processes(lab.namespace, pod, "task")
        killed = time.time()
        nodes.signal(processes, signal.SIGKILL)
    else:
        killed = time.time()
        lab.kubectl.delete("pod", pod, lab.namespace, "--grace-period=0", "--force")
    run.end()
    return float(str(run.result())) - killed
