"""What a chaos run is made of: sizes, times, names. Seconds throughout."""

from dataclasses import dataclass
from typing import Final

from milepost_operator.domain.runs import QueueIntake, Rate, Retry, Semaphore, TaskIntake, Timeouts

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
KEY_LIMIT: Final = ("wide", 6)
RATE: Final = ("default", Rate(60, 10))
TASKS: Final = {"crawl": "wide", "index": "narrow", "report": "default"}
TASK_LIMIT: Final = ("crawl", 11)
SEMAPHORE: Final = ("db", 12, {"index": 2, "report": 1})
"""Name, limit, and the units that a run of each task holds."""
GLOBAL_LIMIT: Final = 24
KEYS: Final = ("", "acme", "globex", "initech")
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


def queue_intake(name: str, generation: int, concurrency: int) -> QueueIntake:
    """A queue as its manifest says, but for the limit that chaos changes."""
    key_limit = KEY_LIMIT[1] if name == KEY_LIMIT[0] else None
    rate = RATE[1] if name == RATE[0] else None
    return QueueIntake(NAMESPACE, name, f"uid-{name}", generation, concurrency, key_limit, rate)


def task_intake(name: str) -> TaskIntake:
    """A task as its manifest says; retries come soon."""
    semaphore, limit, units = SEMAPHORE
    held = [Semaphore(semaphore, limit, units[name])] if name in units else []
    own = TASK_LIMIT[1] if name == TASK_LIMIT[0] else None
    retry, shape = Retry(3, 2.0, 0.2, 1.0), {"entrypoint": "a:b"}
    return TaskIntake(NAMESPACE, name, f"uid-{name}", 1, shape, TASKS[name], retry, Timeouts(), own, held)
