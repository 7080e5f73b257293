"""Many runs at once under a queue's limit."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from e2e.harness.lab import API_VERSION, Lab, run_manifest, wait_all
from e2e.harness.programs import ONE_SPAN
from e2e.harness.report import most_alive


@dataclass(frozen=True)
class Outcome:
    """`states` counts the runs' ends; times in seconds: `create` of the last object, `total` until the last end."""

    states: dict[str, int]
    most_alive: int
    attempts: int
    create: float
    total: float


def burst(
    lab: Lab,
    runs: int,
    limit: int,
    *,
    seconds: float = 0.5,
    timeout: float = 540,
    warm: Mapping[str, object] | None = None,
) -> Outcome:
    """Create `runs` Runs with one kubectl command in a queue of `limit`, and wait for the last.

    Args:
        lab: whose namespace it happens in.
        runs: how many.
        limit: concurrency of their queue.
        seconds: that each is at work.
        timeout: seconds until the wait for the last one is given up.
        warm: `spec.warm` of their Task; None: it says nothing.
    """
    queue = {"apiVersion": API_VERSION, "kind": "Queue", "metadata": {"name": "narrow"}, "spec": {"concurrency": limit}}
    lab.kubectl.apply(queue, namespace=lab.namespace)
    # The less a pod asks for, the more of them one small node holds.
    small = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}}
    lab.task("span", ONE_SPAN, queue="narrow", resources=small, **({} if warm is None else {"warm": warm}))
    begun = time.monotonic()
    names = [f"burst-{number:04}" for number in range(runs)]
    lab.kubectl.create(*(run_manifest("span", name, {"seconds": seconds}) for name in names), namespace=lab.namespace)
    created = time.monotonic() - begun
    states = wait_all(
        lab.runs(*names), lambda state: state in {"succeeded", "failed", "cancelled", "timedOut"}, timeout
    )
    total = time.monotonic() - begun
    ours = f"run_id in (select run_id from runs where namespace = '{lab.namespace}')"
    attempts = int(str(lab.sql.value(f"select count(*) from attempts where {ours}")))
    known = {str(row["run_id"]) for row in lab.sql.rows(f"select run_id from runs where namespace = '{lab.namespace}'")}
    events = [event for event in lab.counter.events() if event.run in known]
    return Outcome(dict(Counter(states.values())), most_alive(events), attempts, created, total)
