"""300 runs created at once under a limit of 10, a new pod for each."""

from collections.abc import Sequence

from e2e.bench.bars import Bar
from e2e.harness.burst import burst
from e2e.harness.lab import COLD, Lab

RUNS = 300
LIMIT = 10
SECONDS = 2.0


def measure(lab: Lab) -> Sequence[Bar]:
    """The limit has to be reached and never passed; the time is told, for it depends on the machine's pods a second."""
    outcome = burst(lab, RUNS, LIMIT, seconds=SECONDS, warm=COLD)
    failed = RUNS - outcome.states.get("succeeded", 0)
    print(f"states {outcome.states}, {outcome.attempts} attempts, created in {outcome.create:.1f} s")
    if outcome.most_alive < LIMIT:
        print(f"the limit was not reached: {outcome.most_alive} processes at most")
    return [
        Bar("burst_not_succeeded", failed, "runs", 0),
        Bar("burst_most_alive", outcome.most_alive, "processes", LIMIT),
        Bar("burst_total", outcome.total, "s"),
        Bar("burst_rate_inverse", outcome.total / RUNS, "s/run"),
    ]
