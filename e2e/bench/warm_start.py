"""From the commit of an HTTP trigger to the first line of the task, in a pod that waits: every run counted."""

import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from e2e.bench.arrivals import trigger
from e2e.bench.bars import Bar, percentile
from e2e.bench.peers import RESOURCES
from e2e.bench.programs import NOOP
from e2e.harness import warm
from e2e.harness.lab import API_VERSION, ENDED, Lab, run_manifest, wait_all
from e2e.harness.sql import literal
from e2e.harness.wait import WaitedTooLongError, eventually

PODS = 10
KEPT = {"seconds": 900, "max": PODS, "maxRuns": 1_000_000}
TARGET_MISSES = 1.0  # percent


@dataclass(frozen=True)
class Load:
    """`rate` a second, `runs` of them in all; targets in milliseconds."""

    rate: float
    runs: int
    p50: float
    p99: float


LOADS = (Load(1, 100, 25.0, 100.0), Load(20, 1200, 30.0, 200.0))


def measure(lab: Lab) -> Sequence[Bar]:
    """Ten pods wait; then runs come at random moments. What is missing at the end counts as a run without an end."""
    queue(lab)
    lab.task("noop", NOOP, queue="start", resources=RESOURCES, warm=KEPT)
    prime(lab, "noop", PODS, seconds=6)
    return [bar for load in LOADS for bar in _under(lab, load)]


def queue(lab: Lab) -> None:
    """A queue that nothing waits in."""
    spec = {"concurrency": 1000}
    lab.kubectl.apply(
        {"apiVersion": API_VERSION, "kind": "Queue", "metadata": {"name": "start"}, "spec": spec},
        namespace=lab.namespace,
    )


def mirrored(lab: Lab, task: str) -> None:
    """Wait until the database knows the Task and its queue: a run before that is held for them."""
    of = f"namespace = {literal(lab.namespace)} and name ="
    task_there, queue_there = f"select from tasks where {of} {literal(task)}", f"select from queues where {of} 'start'"
    known = f"select exists ({task_there}) and exists ({queue_there})"
    eventually("the Task's row", lambda: lab.sql.value(known), 30, diagnose=lab.diagnose)


def prime(lab: Lab, task: str, pods: int, **given: object) -> None:
    """Have so many pods of a Task wait: that many of its runs at once, each long enough to need one for itself."""
    names = [f"prime-{uuid.uuid4().hex[:8]}" for _ in range(pods)]
    lab.kubectl.create(*(run_manifest(task, name, given or None) for name in names), namespace=lab.namespace)
    wait_all(lab.runs(*names), lambda state: state == "succeeded", 120)
    warm.settled(lab, task, pods)


def _under(lab: Lab, load: Load) -> list[Bar]:
    names = [f"at-{load.rate:g}-{number:04}" for number in range(load.runs)]
    late = trigger(lab, "noop", names, load.rate, seed=int(load.rate))
    with suppress(WaitedTooLongError):  # told below
        wait_all(lab.runs(*names), lambda state: state in ENDED, 60)
    rows = started(lab, f"at-{load.rate:g}-")
    took = [float(str(row["took"])) * 1000 for row in rows if row["took"] is not None]
    reasons = Counter(str(row["cold"]) for row in rows if row["cold"] is not None)
    label = f"warm_start_{load.rate:g}"
    print(f"{load.runs} runs at {load.rate:g}/s, sent late by at most {max(late) * 1000:.1f} ms; cold: {dict(reasons)}")
    dispatched = [float(str(row["dispatched"])) * 1000 for row in rows if row["dispatched"] is not None]
    return [
        Bar(f"{label}_p50", percentile(took, 50), "ms", load.p50),
        Bar(f"{label}_p99", percentile(took, 99), "ms", load.p99),
        Bar(f"{label}_max", max(took), "ms"),
        Bar(f"{label}_dispatched_p50", percentile(dispatched, 50), "ms"),
        Bar(f"{label}_dispatched_p99", percentile(dispatched, 99), "ms"),
        Bar(f"{label}_misses", 100 * sum(reasons.values()) / load.runs, "%", TARGET_MISSES),
        Bar(f"{label}_without_end", load.runs - len(took), "runs", 0),
    ]


def started(lab: Lab, prefix: str) -> list[dict[str, object]]:
    """Seconds from each run's insert to its first line (`took`, of those that succeeded) and to the start of its
    attempt (`dispatched`), and why it needed a new pod (`cold`).
    """
    since = "extract(epoch from r.created_at)::float8"
    return lab.sql.rows(
        f"select case when r.state = 'succeeded' then (r.result #>> '{{}}')::float8 - {since} end took, "
        f"extract(epoch from a.started_at)::float8 - {since} dispatched, a.cold_reason cold "
        "from runs r join attempts a on a.run_id = r.run_id and a.attempt = 1 "
        f"where r.namespace = {literal(lab.namespace)} and r.name like {literal(prefix + '%')} order by r.created_at"
    )
