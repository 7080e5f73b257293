"""What the kernel noted of this container: cgroup v2, or the v1 hierarchy as runtimes mount it."""

import resource
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

from milepost.net.messages import Headers, compact
from milepost.wire.evidence import Evidence
from milepost.wire.local import USAGE

ROOT: Final = Path("/sys/fs/cgroup")
_MEMORY: Final = (
    ("memory.events", "memory.peak"),
    ("memory/memory.oom_control", "memory/memory.max_usage_in_bytes"),
)
_CPU: Final = (
    ("cpu.stat", "throttled_usec", 1_000),
    ("cpu/cpu.stat", "throttled_time", 1_000_000),
    ("cpu,cpuacct/cpu.stat", "throttled_time", 1_000_000),
)
"""File, name of the time in it, and how many of its units are a millisecond; v2 first."""


@dataclass(frozen=True, slots=True)
class Counters:
    """All since the container began; 0 what the kernel does not keep. `throttled…`: periods in which the CPU limit
    held the container back, and for how long.
    """

    oom_kills: int = 0
    peak_bytes: int = 0
    throttled_periods: int = 0
    throttled_ms: int = 0

    def __str__(self) -> str:
        """Give it as an argument of a process."""
        return ",".join(map(str, astuple(self)))

    @classmethod
    def of(cls, text: str) -> "Counters":
        """Read such an argument."""
        return cls(*map(int, text.split(",")))


def read(root: Path = ROOT) -> Counters:
    """Read them; zeros where there is nothing to read."""
    kills = peak = periods = milliseconds = 0
    for events, most in _MEMORY:
        if (text := _text(root / events)) is not None:
            kills, peak = _field(text, "oom_kill"), _number(_text(root / most) or "")
            break
    for stat, name, unit in _CPU:
        if (text := _text(root / stat)) is not None:
            periods, milliseconds = _field(text, "nr_throttled"), _field(text, name) // unit
            break
    return Counters(kills, peak, periods, milliseconds)


def since(before: Counters, resident_bytes: int) -> Evidence:
    """Give what an attempt used that began at `before`, of which a process had `resident_bytes` at most in memory.

    The kernel keeps one peak for all attempts of a container: where this one did not raise it, its own largest process
    tells how much it took.
    """
    now = read()
    return Evidence(
        oom_kills=now.oom_kills - before.oom_kills,
        peak_bytes=now.peak_bytes if now.peak_bytes > before.peak_bytes else 0,
        throttled_periods=now.throttled_periods - before.throttled_periods,
        throttled_ms=now.throttled_ms - before.throttled_ms,
        resident_bytes=resident_bytes,
    )


def own_usage(before: Counters) -> Headers:
    """Give the header by which an attempt's own process tells what it used."""
    largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return usage(since(before, largest * 1024))


def usage(evidence: Evidence) -> Headers:
    """Give the header Milepost-Usage."""
    told = {
        "oom_kills": evidence.oom_kills,
        "peak_bytes": evidence.peak_bytes,
        "throttled_periods": evidence.throttled_periods,
        "throttled_ms": evidence.throttled_ms,
        "resident_bytes": evidence.resident_bytes,
    }
    return [(USAGE, compact(told).decode())]


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return None  # another version of cgroups, or none


def _field(text: str, name: str) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return _number(value)
    return 0


def _number(text: str) -> int:
    return int(text) if text.strip().isdecimal() else 0
