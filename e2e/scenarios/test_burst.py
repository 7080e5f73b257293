"""Many Runs at once under a limit of 10: all end well, and never more than 10 user processes live.

`make bench` does the same with 300.
"""

import pytest

from e2e.harness.burst import burst
from e2e.harness.lab import Lab

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.timeout(600)]


RUNS = 30
SECONDS = 8.0  # long enough for ten pods to be alive together, however slowly they start


def test_burst(lab: Lab) -> None:
    outcome = burst(lab, RUNS, limit=10, seconds=SECONDS)
    assert outcome.states == {"succeeded": RUNS}
    assert outcome.most_alive == 10, "the limit is to be reached and never passed"
    assert outcome.attempts == RUNS
