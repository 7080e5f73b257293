"""Many Runs at once under a limit of 10: all end well, and never more than 10 user processes live.

`make bench` does the same with 300.
"""

import pytest

from e2e.harness.burst import burst
from e2e.harness.lab import Lab

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


RUNS = 60


def test_burst(lab: Lab) -> None:
    outcome = burst(lab, runs=RUNS, limit=10)
    assert outcome.states == {"succeeded": RUNS}
    assert outcome.most_alive == 10, "the limit is to be reached and never passed"
    assert outcome.attempts == RUNS
