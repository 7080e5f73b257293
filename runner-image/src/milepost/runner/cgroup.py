"""What the kernel noted of this container's memory: cgroup v2, or the v1 hierarchy as runtimes mount it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Memory:
    """`oom_kills` since the container began; `peak_bytes` 0 where the kernel does not keep it."""

    oom_kills: int = 0
    peak_bytes: int = 0


def read(root: Path = ROOT) -> Memory:
    """Read it; zeros where there is nothing to read."""
    for events, peak in (
        (root / "memory.events", root / "memory.peak"),
        (root / "memory/memory.oom_control", root / "memory/memory.max_usage_in_bytes"),
    ):
        if (text := _text(events)) is not None:
            return Memory(_field(text, "oom_kill"), _number(_text(peak) or ""))
    return Memory()


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
