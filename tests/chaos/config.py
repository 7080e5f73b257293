"""What a chaos run is made of: sizes, times, names. Seconds throughout."""

from dataclasses import dataclass
from typing import Final

NAMESPACE: Final = "chaos"
API_TOKEN: Final = "chaos-" + "t" * 32
APIS: Final = 3
HOSTS: Final = 4
PODS: Final = 40
LEASE: Final = 3.0
BEAT: Final = 1.0
GRACE: Final = 2
FULL_MINUTES: Final = 15.0
"""From here on each fault has to hit runs at work at least FULL_HITS times."""
FULL_HITS: Final = 20

QUEUES: Final = {"wide": 16, "narrow": 5, "default": 12}
"""Name to the limit that it begins with and ends with."""
TASKS: Final = {"crawl": "wide", "index": "narrow", "report": "default"}
MISSING_TASK: Final = "nobody-applied-this"


@dataclass(frozen=True, slots=True)
class Options:
    """`backlog`: live runs that the feeder keeps up."""

    seed: int
    minutes: float
    backlog: int = 90
    keep: bool = False

    @property
    def full(self) -> bool:
        return self.minutes >= FULL_MINUTES

    @property
    def needed_hits(self) -> int:
        return FULL_HITS if self.full else 1

    @property
    def snapshot_seconds(self) -> float:
        return 60.0 if self.full else 10.0

    @property
    def drain_seconds(self) -> float:
        return 180.0 if self.full else 75.0
