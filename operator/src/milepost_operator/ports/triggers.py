"""Making runs, and learning of their end. Every method is one transaction; all times are the database's clock."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from milepost_operator.domain.errors import MilepostError
from milepost_operator.domain.runs import Created, NewRun


class Triggers(Protocol):
    """Raises UnavailableError when Postgres can't answer or commit."""

    async def create_runs(self, runs: Sequence[NewRun], *, together: bool = False) -> Sequence[Created | MilepostError]:
        """Insert runs, each once; per run what came of it, whatever comes of the others.

        ConflictError `idempotency-mismatch`, `singleton-exists`, `name-taken`; QueueFullError; ThrottledError.
        `together`: in one transaction.
        """

    async def ended(self, run_ids: Sequence[UUID]) -> Sequence[UUID]:
        """Those of these runs that have reached a terminal state, or are no more."""

    async def forget_triggers(self, limit: int) -> int:
        """Delete what no later call can meet any more: keys, debounces and throttles whose time is over."""
