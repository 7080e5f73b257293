"""A durable step: task to sidecar to API to commit and back, 500 one after the other, 100 bytes each."""

from collections.abc import Sequence

from e2e.bench.bars import Bar, percentile
from e2e.bench.peers import RESOURCES, commit_floor
from e2e.bench.programs import CHECKPOINTS, STEPS
from e2e.harness.lab import Lab

STEPS_COUNT = 500
BYTES = 100
WARM = 20  # the first ones open connections and fill caches
TARGET_P50 = 2.0  # milliseconds
TARGET_P99 = 10.0


def measure(lab: Lab) -> Sequence[Bar]:
    """Steps carry the targets; checkpoints show what of it is the way to Postgres."""
    bars = []
    for name, source, targets in (
        ("step", STEPS, (TARGET_P50, TARGET_P99)),
        ("checkpoint", CHECKPOINTS, (None, None)),
    ):
        lab.task(f"durable-{name}s", source, resources=RESOURCES)
        run = lab.run(f"durable-{name}s", given={"steps": STEPS_COUNT, "size": BYTES})
        run.end(timeout=120)
        result = run.result()
        if not isinstance(result, list):
            raise TypeError(f"no list of times: {result!r}")
        times = [float(str(one)) for one in result][WARM:]
        bars += [
            Bar(f"{name}_p50", percentile(times, 50), "ms", targets[0]),
            Bar(f"{name}_p99", percentile(times, 99), "ms", targets[1]),
        ]
    floor = commit_floor(lab, BYTES, STEPS_COUNT)
    return [*bars, Bar("commit_floor", floor, "ms"), Bar("step_to_commit_floor", bars[0].value / floor, "ratio")]
