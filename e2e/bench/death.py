"""From a death to its cause in the database, and on to the next attempt in a pod that waits."""

import signal
import time
from collections.abc import Sequence
from typing import Literal

from e2e.bench.bars import Bar, percentile
from e2e.bench.programs import FRAGILE
from e2e.bench.warm_start import KEPT, prime, queue
from e2e.cluster.capabilities import Capability
from e2e.harness.faults import Nodes, below_first
from e2e.harness.lab import Lab
from e2e.harness.sql import literal
from e2e.harness.wait import eventually

RUNS = 10
Victim = Literal["child", "all"]
WHAT: dict[Victim, tuple[str, float]] = {"child": ("process", 0.2), "all": ("container", 2.5)}
"""What is killed: the task's process, or all of its container; the target in seconds."""
TARGET_NEXT = 0.5


def measure(lab: Lab) -> Sequence[Bar]:
    """Skipped where the node is not ours."""
    if not lab.platform.can(Capability.NODE_ACCESS):
        print("skipped: the cluster lacks node-access")
        return []
    queue(lab)
    retry = {"maxAttempts": 3, "minSeconds": 0, "maxSeconds": 0}
    lab.task("fragile", FRAGILE, queue="start", warm=KEPT, retry=retry)
    bars: list[Bar] = []
    for victim, (name, target) in WHAT.items():
        taken = [once(lab, victim) for _ in range(RUNS)]
        recorded, following = [one[0] for one in taken], [one[1] for one in taken]
        bars += [
            Bar(f"death_of_{name}_recorded_p50", percentile(recorded, 50), "s", target),
            Bar(f"death_of_{name}_recorded_max", max(recorded), "s"),
            Bar(f"next_after_{name}_p50", percentile(following, 50), "s", TARGET_NEXT),
            Bar(f"next_after_{name}_max", max(following), "s"),
        ]
    return bars


def once(lab: Lab, victim: Victim) -> tuple[float, float]:
    """Seconds from the signal to the end of the attempt, and from there to the start of the next."""
    prime(lab, "fragile", 2)
    run = lab.run("fragile", given={"fragile": True})
    count = f"select count(*) from records where run_id = {literal(run.id)}"
    eventually("a record", lambda: lab.sql.value(count) == 1, 60, diagnose=run.diagnose)
    nodes, pod = Nodes(lab.platform), str(run.live().pod)
    processes = nodes.processes(lab.namespace, pod, "task")
    chosen = processes if victim == "all" else below_first(processes)
    killed = time.time()
    nodes.signal(chosen, signal.SIGKILL)
    run.end()
    times = "extract(epoch from ended_at)::float8 ended, extract(epoch from started_at)::float8 started"
    first, second, *_ = lab.sql.rows(f"select {times} from attempts where run_id = {literal(run.id)} order by attempt")
    ended = float(str(first["ended"]))
    return ended - killed, float(str(second["started"])) - ended
