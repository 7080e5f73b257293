"""Figures against their targets, and the statistics they are made with. No cluster here."""

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bar:
    """One figure; smaller is better. `target` None: only told."""

    name: str
    value: float
    unit: str
    target: float | None = None

    @property
    def ok(self) -> bool:
        return self.target is None or self.value <= self.target

    def line(self) -> str:
        """The line that scripts read."""
        target = "-" if self.target is None else f"{self.target:g}"
        return f"bar {self.name} {self.value:.4g} {self.unit} {target} {'ok' if self.ok else 'short'}"


def percentile(values: Sequence[float], percent: float) -> float:
    """Give the nearest-rank percentile. ValueError when there are no values."""
    if not values:
        raise ValueError("no values to rank")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def machine() -> str:
    """Describe the machine in one line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} x {model}, {memory:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"
    )


def show(bars: Sequence[Bar]) -> bool:
    """Print the lines; true when every target is met."""
    for bar in bars:
        print(bar.line(), flush=True)
    return all(bar.ok for bar in bars)
