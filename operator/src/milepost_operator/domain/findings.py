"""What is found in a Task's recent attempts, as it is kept and told."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Kind(StrEnum):
    """Names of conditions of a Task. All but the last are patterns of failure."""

    TIMEOUT_LOOP = "TimeoutLoop"
    RETRY_STORM = "RetryStorm"
    CHECKPOINT_GAP = "CheckpointGap"
    MEMORY_GROWTH = "MemoryGrowth"
    PULL_FLAPPING = "ImagePullFlapping"
    MEMORY_PROPOSAL = "MemoryProposal"


PATTERNS = tuple(kind for kind in Kind if kind is not Kind.MEMORY_PROPOSAL)


@dataclass(frozen=True, slots=True)
class Finding:
    """`holds`: it is so now. `reason`: one word for machines; `message`: what was seen as it began, in a sentence.

    `value`: bytes that a proposal proposes, else how many attempts or pods were counted.
    """

    kind: Kind
    holds: bool
    reason: str
    message: str
    value: int = 0


@dataclass(frozen=True, slots=True)
class TaskFinding:
    """A finding of one Task, and since when it is so (or is no more)."""

    namespace: str
    task: str
    finding: Finding
    since: datetime


@dataclass(frozen=True, slots=True)
class Tried:
    """One attempt as patterns and proposals see it, ended or not.

    `gap_seconds`: from its last record (or its start) to its end, which a failed attempt leaves to be done again.
    `peak_bytes` of the container, where the attempt raised it, `resident_bytes` of its largest process; 0: not known.
    `memory_class`: as in PodOrder. `pull_failed`: its pod's image could not be pulled at first; `grew`: its pod took no
    more runs since the process that waits in it had grown.
    """

    run: str
    attempt: int
    pod: str
    version: int
    cause: str
    reason: str | None
    counted: bool
    infra: bool
    reserved_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    gap_seconds: float
    peak_bytes: int
    resident_bytes: int
    memory_class: int
    pull_failed: bool
    grew: bool
