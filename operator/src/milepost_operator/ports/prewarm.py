"""The store for pods that are made before there is a run for them. As all ports, see ports.store."""

from collections.abc import Sequence
from typing import Protocol

from milepost.wire.pod import Code
from milepost_operator.domain.prewarm_views import TaskFacts
from milepost_operator.domain.runs import PodSession


class PrewarmDuty(Protocol):
    """Periodic work, safe from any replica at any time."""

    async def prewarm(self) -> int:
        """Decide how many pods each Task should have now, and have those made that lack; how many."""


class PrewarmPods(Protocol):
    """What pods ask for, and tell, before they have a run."""

    async def code_of(self, session: PodSession) -> Code:
        """What the pod is to import. GoneError, ForbiddenError."""

    async def tell_left(self, session: PodSession, left: Sequence[str]) -> None:
        """The import of the pod's code left what its runs can't share; the first to say so of a version is heard."""


class TaskReads(Protocol):
    """What rows know of Tasks that their objects should tell."""

    async def task_facts(self) -> Sequence[TaskFacts]:
        """Of Tasks of which there is anything to tell."""
