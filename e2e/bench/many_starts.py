"""50 runs at once with no pod to take them, beside 50 plain Jobs of the same shape on the same cluster."""

import time
from collections.abc import Sequence

from e2e.bench.bars import Bar
from e2e.bench.peers import bare_jobs
from e2e.bench.programs import NOOP
from e2e.bench.warm_start import mirrored, queue, started
from e2e.harness.lab import ENDED, Lab, wait_all

RUNS = 50
TARGET = 1.3  # of what the bare cluster needs
SMALL = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}}
"""So many have to fit on one small node."""


def measure(lab: Lab) -> Sequence[Bar]:
    """The bare Jobs come first: they leave nothing that a later one can use."""
    bare = bare_jobs(lab, RUNS, SMALL)
    lab.kubectl.run("delete", "jobs", "--all", "-n", lab.namespace, "--wait=true", timeout=180)
    time.sleep(5)  # the kubelet takes 50 sandboxes down
    queue(lab)
    lab.task("noop", NOOP, queue="start", resources=SMALL)
    mirrored(lab, "noop")
    items = [{"task": "noop", "namespace": lab.namespace, "name": f"many-{number:02}"} for number in range(RUNS)]
    answer = lab.release.api.call("POST", "/v1/runs/batch", {"items": items})
    if answer.status != 200:
        raise RuntimeError(f"the batch was answered {answer.status}: {answer.body.decode()[:500]}")
    names = [str(item["name"]) for item in items]
    wait_all(lab.runs(*names), lambda state: state in ENDED, 240)
    took = [float(str(row["took"])) for row in started(lab, "many-") if row["took"] is not None]
    return [
        Bar("many_starts_last", max(took), "s"),
        Bar("bare_jobs_last", bare, "s"),
        Bar("many_starts_to_bare_jobs", max(took) / bare, "ratio", TARGET),
        Bar("many_starts_without_end", RUNS - len(took), "runs", 0),
    ]
