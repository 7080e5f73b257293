"""What each peer's script shares: it runs in the peers' own environment, and knows nothing of Milepost.

`script PHASE ADDRESS COUNT BYTES` prints one line `RESULT {...}`. Phases: `setup`; `steps` gives `took`, the
milliseconds of each of so many recorded steps in a row; `resume` gives `seconds` from the first line of a function
with so many recorded steps to the first line after them, when it runs again; `size` makes COUNT runs of 100 steps each.
"""

import json
import sys
import time
from collections.abc import Callable

WARM = 20
STEPS_OF_SIZED = 100


class Stopwatch:
    """Milliseconds between two calls."""

    def __init__(self) -> None:
        self.took: list[float] = []
        self._begun = 0.0

    def start(self) -> None:
        self._begun = time.perf_counter()

    def stop(self) -> None:
        self.took.append((time.perf_counter() - self._begun) * 1000)


def value(size: int) -> str:
    return "x" * size


def say(**facts: object) -> None:
    """The one line that the benchmark reads."""
    sys.stdout.write("RESULT " + json.dumps(facts) + "\n")
    sys.stdout.flush()


def main(phases: dict[str, Callable[[str, int, int], dict[str, object]]]) -> None:
    phase, address, count, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    say(**phases[phase](address, count, size))
