"""What is found in the recent attempts of Tasks. As of `ports.store`: UnavailableError when Postgres can't answer."""

from collections.abc import Sequence
from typing import Protocol

from milepost_operator.domain.findings import TaskFinding


class FindingDuty(Protocol):
    """Periodic work, safe from any replica at any time."""

    async def check_tasks(self, limit: int) -> int:
        """Look at Tasks that nobody has looked at for a while (how many), keep what is found, and pause queues that say
        so in their manifest.
        """


class FindingReads(Protocol):
    """For whoever tells people."""

    async def task_findings(self) -> Sequence[TaskFinding]:
        """All that were ever found of Tasks that are there, by namespace and name; whether each holds now."""
