"""1,000 runs through five pods that are killed at random: every run ends well, and nothing grows."""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from e2e.bench.arrivals import trigger
from e2e.bench.bars import Bar
from e2e.bench.footprint import MIB, pss
from e2e.bench.programs import NOOP
from e2e.cluster.capabilities import Capability
from e2e.harness import warm
from e2e.harness.faults import Nodes
from e2e.harness.invariants import Invariants
from e2e.harness.kubectl import KubectlError
from e2e.harness.lab import API_VERSION, ENDED, Lab, wait_all
from e2e.harness.release import NAMESPACE
from e2e.harness.sql import literal

RUNS = 1000
RATE = 4.0
PODS = 5
KILL_EVERY = 5.0  # seconds
LIMIT_GROWTH = 16.0  # MiB
COMPONENTS = ("api", "operator")


@dataclass
class Killer:
    """Deletes a pod, or kills one of its containers, every few seconds, and counts those that wait."""

    lab: Lab
    chance: random.Random = field(default_factory=lambda: random.Random(5))
    kills: int = 0
    most_idle: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.over.wait(KILL_EVERY):
            found = [slot for slot in warm.slots(self.lab) if slot.pod and slot.state != "closing"]
            self.most_idle = max(self.most_idle, sum(slot.state == "idle" for slot in found))
            if found:
                self._kill(str(self.chance.choice(found).pod))

    def _kill(self, pod: str) -> None:
        how = self.chance.choice(["delete", "task", "milepost-sidecar"])
        try:
            if how == "delete":
                self.lab.kubectl.delete("pod", pod, self.lab.namespace, "--grace-period=0", "--force", "--wait=false")
            else:
                Nodes(self.lab.platform).kill(self.lab.namespace, pod, how)
        except (KubectlError, AssertionError) as error:
            print(f"pod {pod} had gone: {str(error)[:120]}")
            return
        self.kills += 1


def measure(lab: Lab) -> Sequence[Bar]:
    """Skipped where the node is not ours."""
    if not lab.platform.can(Capability.NODE_ACCESS):
        print("skipped: the cluster lacks node-access")
        return []
    queue = {"apiVersion": API_VERSION, "kind": "Queue", "metadata": {"name": "soak"}, "spec": {"concurrency": PODS}}
    lab.kubectl.apply(queue, namespace=lab.namespace)
    lab.task("noop", NOOP, queue="soak", warm={"max": PODS, "maxRuns": 1000}, retry={"maxAttempts": 3})
    names = [f"soak-{number:04}" for number in range(RUNS)]
    trigger(lab, "noop", names[:100], RATE * 2)  # what is made once is made
    before = sizes(lab)
    killer = Killer(lab)
    thread = threading.Thread(target=killer.run)
    thread.start()
    begun = time.monotonic()
    try:
        trigger(lab, "noop", names[100:], RATE)
    finally:
        killer.over.set()
        thread.join()
    states = wait_all(lab.runs(*names), lambda state: state in ENDED, 180)
    print(f"{RUNS} runs in {time.monotonic() - begun:.0f} s, {killer.kills} pods killed")
    Invariants(lab.sql).check()
    after = sizes(lab)
    return [
        Bar("soak_not_succeeded", sum(state != "succeeded" for state in states.values()), "runs", 0),
        Bar("soak_attempts_counted", counted(lab), "attempts", 0),
        Bar("soak_most_idle", killer.most_idle, "pods", PODS),
        *(Bar(f"soak_{name}_growth", after[name] - before[name], "MiB", LIMIT_GROWTH) for name in COMPONENTS),
    ]


def sizes(lab: Lab) -> dict[str, float]:
    """MiB of each part of the control plane."""
    nodes = Nodes(lab.platform)
    return {
        name: sum(pss(nodes, NAMESPACE, pod, name) for pod in lab.release.pod_names(name)) / MIB for name in COMPONENTS
    }


def counted(lab: Lab) -> int:
    """Attempts that a kill cost."""
    ours = f"run_id in (select run_id from runs where namespace = {literal(lab.namespace)})"
    return int(str(lab.sql.value(f"select count(*) from attempts where counted and {ours}")))
