"""The store for lists, for many runs at once and for what is left of ended ones. As all ports, see ports.store."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from milepost_operator.domain.lifecycle import Copied, Decision, Found, Page, Position, Redriven, RunFilter
from milepost_operator.domain.runs import RecordView


class Lists(Protocol):
    async def page(self, namespace: str | None, asked: RunFilter, before: Position | None, limit: int) -> Page:
        """Runs of the namespace (None: of all), newest first, by keyset."""

    async def dead_letters(self, namespace: str, asked: RunFilter, before: Position | None, limit: int) -> Page:
        """Dead letters, the newest first."""

    async def find_live(self, namespace: str, asked: RunFilter, before: Position | None, limit: int) -> Found:
        """Runs that have not ended and were not told to, newest first."""

    async def last_records(self, run_id: UUID, limit: int) -> Sequence[RecordView]:
        """The newest records of a run, without their values, newest first."""


class Lifecycle(Protocol):
    """Each run is changed in a transaction of its own, or a few together: never a long lock."""

    async def cancel_many(self, namespace: str, run_ids: Sequence[UUID], who: str) -> int:
        """Ask for the end of runs; how many had not ended and were not told to before."""

    async def retry_run(self, run_id: UUID, who: str) -> Copied:
        """A new run of the same input, which resumes after the last record. ConflictError `not-ended`, `dead-letter`;
        PrunedError: its records are pruned.
        """

    async def decide_change(self, run_id: UUID, decision: Decision, who: str) -> None:
        """Let a run that is held for its changed code go on, or end. ConflictError `not-held`: it waits for none."""

    async def redrive(self, namespace: str, runs: Sequence[str], who: str) -> Sequence[Redriven]:
        """Dead letters (by name or id) leave the queue, each as one new run."""

    async def discard(self, namespace: str, runs: Sequence[str], who: str) -> Sequence[Redriven]:
        """Dead letters leave the queue for good."""


class Pruning(Protocol):
    async def prune(self, limit: int) -> bool:
        """Delete some of what is past its retention, by row locks; True when there may be more."""


class History(Protocol):
    """Run objects of ended runs, for the projector."""

    async def surplus_crs(self, limit: int) -> Sequence[tuple[UUID, str, str, str]]:
        """(run, namespace, name, uid) of our own Run objects beyond their task's history limits, oldest first."""

    async def cr_deleted(self, run_ids: Sequence[UUID]) -> None:
        """These objects are gone, and stay away."""
