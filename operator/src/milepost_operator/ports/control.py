"""Control while running: queues are paused, resized and looked at, runs are bumped, and every wait tells its reason.

As of `ports.store`: every method is one transaction, times are the database's clock, UnavailableError when Postgres
can't answer or commit.
"""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from milepost_operator.domain.queues import QueueView
from milepost_operator.domain.why import Why


class Control(Protocol):
    """What people change while the engine runs: rows, which no restart and no manifest takes back."""

    async def pause_queue(self, namespace: str, name: str, who: str, reason: str = "") -> int:
        """Admit nothing more, and put back what is admitted and has not started. Returns how many were put back.

        No admission of the queue commits after this has returned. A paused queue stays as it is but for its reason.
        NotFoundError.
        """

    async def resume_queue(self, namespace: str, name: str) -> None:
        """Admit again; queue TTLs stood still. NotFoundError; ConflictError `paused-by-manifest`."""

    async def change_queue(self, namespace: str, name: str, who: str, concurrency: int | None) -> None:
        """Put `concurrency` in force over the manifest's limit; None: the manifest's again. NotFoundError."""

    async def bump_run(self, run_id: UUID) -> None:
        """To the front of its whole queue, once. NotFoundError; ConflictError `not-waiting`."""


class QueueReads(Protocol):
    """What is in the queues."""

    async def get_queue(self, namespace: str, name: str) -> QueueView:
        """NotFoundError."""

    async def list_queues(self, namespace: str | None) -> Sequence[QueueView]:
        """By namespace and name; None: of all namespaces."""

    async def why(self, run_id: UUID) -> Why | None:
        """The one reason that the run waits for; None when it has ended. NotFoundError."""


class ControlDuties(Protocol):
    """Periodic work, safe from any replica at any time."""

    async def judge_breakers(self) -> int:
        """Let the ends of attempts open and close their queues' breakers; returns how many changed their phase."""

    async def show_waiting(self, limit: int) -> int:
        """Give waiting runs that have an object their reason's code, once it held for 10 s; returns how many."""
