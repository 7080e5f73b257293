"""From the commit of an HTTP trigger to the first line of user code, with a new pod each time."""

import time
from collections.abc import Iterator, Sequence

from e2e.bench.bars import Bar, percentile
from e2e.bench.peers import RESOURCES, bare_job
from e2e.bench.programs import CLOCK
from e2e.harness.lab import COLD, Lab, Run

RUNS = 30
TARGET_P50 = 1.0  # seconds
TARGET_P95 = 1.6
PEERS = 10
APART = 1.0  # seconds: the kubelet takes the last pod's sandbox down meanwhile, on the cores that the next one needs


def measure(lab: Lab) -> Sequence[Bar]:
    """One after the other, each alone; the first is not counted, since no pod of this namespace has run before it."""
    lab.task("clock", CLOCK, resources=RESOURCES, warm=COLD)
    taken = [once(lab, f"cold-{number:02}") for number in _apart(RUNS + 1)][1:]
    peer = percentile([bare_job(lab, number) for number in _apart(PEERS)], 50)
    ours = percentile(taken, 50)
    return [
        Bar("cold_start_p50", ours, "s", TARGET_P50),
        Bar("cold_start_p95", percentile(taken, 95), "s", TARGET_P95),
        Bar("cold_start_max", max(taken), "s"),
        Bar("bare_job_p50", peer, "s"),
        Bar("cold_start_to_bare_job", ours / peer, "ratio"),
    ]


def _apart(times: int) -> Iterator[int]:
    for number in range(times):
        time.sleep(APART)
        yield number


def once(lab: Lab, name: str) -> float:
    """Trigger one run over HTTP and give its seconds."""
    answer = lab.release.api.call("POST", "/v1/runs", {"task": "clock", "namespace": lab.namespace, "name": name})
    if answer.status != 201:
        raise RuntimeError(f"the trigger was answered {answer.status}: {answer.body.decode()}")
    run = Run(lab, name)
    run.end()
    created = "extract(epoch from created_at)::float8"
    seconds = lab.sql.value(f"select (result #>> '{{}}')::float8 - {created} from runs where run_id = '{run.id}'")
    return float(str(seconds))
