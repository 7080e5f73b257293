"""What is asked of runs after their end, and of many runs at once: filters, pages, outcomes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from milepost_operator.domain.states import TERMINAL, RunState

FAILING: Final = (RunState.FAILED, RunState.TIMED_OUT, RunState.EXPIRED)
"""The states whose reason and message are an error's."""
CANCELLABLE: Final = tuple(state for state in RunState if state not in TERMINAL and state != RunState.CANCELLING)

Summary = Mapping[str, object]
"""A run in a list, by its JSON names (api.views.RunSummaryOut)."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Conditions that all hold. `key`: the concurrency key. Times: from `after` on, before `before`.

    `min_seconds`, `max_seconds`: from the first start to the end, of ended runs. `error`: text within the reason or
    message of a run that ended badly, in any case.
    """

    task: str | None = None
    queue: str | None = None
    states: Sequence[RunState] = ()
    tag: str | None = None
    key: str | None = None
    idempotency_key: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    finished_after: datetime | None = None
    finished_before: datetime | None = None
    min_seconds: float | None = None
    max_seconds: float | None = None
    error: str | None = None

    def within(self, states: Sequence[RunState]) -> "RunFilter | None":
        """The same of runs in some of `states`; None when its own states leave none."""
        both = [state for state in states if not self.states or state in self.states]
        return replace(self, states=both) if both else None

    @property
    def by_finish(self) -> bool:
        """Lists of a range of ends are in the order of ends, all others in that of creation."""
        return self.finished_after is not None or self.finished_before is not None


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page ended: its last row by the list's order (newest first), whatever came in since."""

    at: datetime
    run_id: UUID


@dataclass(frozen=True, slots=True)
class Page:
    """`shown`: a JSON array of runs. `following` None: there is no more.

    A page may have fewer rows than asked for, or none, and still go on.
    """

    shown: str
    following: Position | None

    @property
    def items(self) -> Sequence[Summary]:
        """The runs, decoded."""
        items: list[Summary] = json.loads(self.shown)
        return items


@dataclass(frozen=True, slots=True)
class Found:
    """Ids of runs that a filter names."""

    run_ids: Sequence[UUID]
    following: Position | None


Decision = Literal["accept", "recheck", "fail"]
"""On a run whose code changed: go on with records found by their keys, go on with each one checked again, or end."""
Outcome = Literal["redriven", "discarded", "not-a-dead-letter", "not-found", "records-pruned", "singleton-exists"]


@dataclass(frozen=True, slots=True)
class Copied:
    """A new run made of an ended one. `records`: how many it begins with, up to `origin_seq` of its origin."""

    run_id: UUID
    name: str
    namespace: str
    task: str
    state: RunState
    origin_run: UUID
    origin_seq: int
    records: int


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of one dead letter. `run`: as it was named. `made`: the new run, now or earlier."""

    run: str
    outcome: Outcome
    made: UUID | None = None
    name: str | None = None
