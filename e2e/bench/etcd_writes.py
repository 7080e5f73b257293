"""What a run costs etcd: writes of our service accounts by the audit log, and the size of the Run object."""

from collections.abc import Sequence

from e2e.bench.bars import Bar
from e2e.harness.audit import AuditLog, ours
from e2e.harness.lab import COLD, Lab, encoded
from e2e.harness.programs import STEPS
from e2e.harness.release import NAMESPACE

RUNS = 10
TARGET_WRITES = 6.0  # 4, and 2 for the one attempt
TARGET_EVENTS = 4.0  # 2, and 2 for the one attempt
TARGET_BYTES = 4096.0


def measure(lab: Lab) -> Sequence[Bar]:
    """Runs of 20 steps and one attempt each, made with kubectl; Events are told apart, since etcd forgets them."""
    lab.task("steps", STEPS, warm=COLD)  # the dearest way: the Job and the pod are among the writes
    path = lab.platform.cluster.audit_log
    log = AuditLog(path) if path else None
    if log:
        log.mark()
    runs = [lab.run(given={"steps": 20, "seconds": 0.1}) for _ in range(RUNS)]
    for run in runs:
        run.wait("Succeeded", timeout=120)
    sizes = [len(encoded(run.manifest())) for run in runs]
    bars = [Bar("run_object_bytes", max(sizes), "bytes", TARGET_BYTES)]
    if log is None:
        print("writes are not counted: the cluster lacks audit-log")
        return bars
    counted = ours(log.since(), NAMESPACE, lab.namespace)
    for (verb, resource), number in sorted(counted.items()):
        print(f"{number / RUNS:6.1f} a run: {verb} {resource}")
    on_runs = sum(number for (_, resource), number in counted.items() if resource.startswith("runs"))
    events = sum(number for (_, resource), number in counted.items() if resource == "events")
    return [
        Bar("run_object_writes", on_runs / RUNS, "writes/run", TARGET_WRITES),
        Bar("events", events / RUNS, "writes/run", TARGET_EVENTS),
        Bar("all_writes", sum(counted.values()) / RUNS, "writes/run"),
        *bars,
    ]
