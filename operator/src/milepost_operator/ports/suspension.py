"""Runs that wait without a pod: what wakes them, and the clocks that end runs nobody works on."""

from typing import Protocol
from uuid import UUID


class Signals(Protocol):
    """Messages from outside to one run."""

    async def signal_run(self, run_id: UUID, name: str, payload: str, signal_id: str | None = None) -> int:
        """Leave a signal for a run, in order, kept until it is terminal; its number.

        `payload`: JSON text. With a `signal_id` that the run has already, nothing is added: the number of that signal.
        NotFoundError; ConflictError `run-ended`, or `too-many-signals` that nobody took.
        """


class Wakes(Protocol):
    """Duties: safe from any replica at any time."""

    async def wake_runs(self, limit: int) -> int:
        """Resolve waits whose moment, child or answer has come and queue their runs again; how many were looked at."""

    async def wake_wait(self, run_id: UUID, key: str, resolution: str) -> bool:
        """Answer a token, approval or event that a run waits for (JSON text); False: it has no such open wait."""

    async def expire_queued(self, limit: int) -> int:
        """End runs that were not admitted within their TTL; a paused queue's clock stands still."""
