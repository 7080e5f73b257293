"""Queues as people see and change them."""

from dataclasses import dataclass
from datetime import datetime

from milepost_operator.domain.breaker import Phase, Policy
from milepost_operator.domain.why import Pause, RateUse

MAX_DEPTH_COUNTED = 10_000
"""A backlog is counted no further than this when a queue is looked at."""


@dataclass(frozen=True, slots=True)
class Override:
    """A limit set at run time; it stays until it is cleared, whatever the Queue's manifest says."""

    concurrency: int
    by: str | None
    since: datetime | None


@dataclass(frozen=True, slots=True)
class BreakerView:
    """`failures`: those of the present window. `passed`: probes that succeeded. `until`: when `open` ends."""

    policy: Policy
    phase: Phase
    failures: int
    passed: int
    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class QueueView:
    """One queue at one moment. `limit`: the one in force, None for none; `spec_limit`: that of the manifest.

    `depth`: runs that wait for a slot, counted up to MAX_DEPTH_COUNTED. `oldest_at`: since when the first of them does.
    `rate_used`: units of the rate that are taken in the present window, None where the queue has no rate.
    """

    namespace: str
    name: str
    depth: int
    running: int
    limit: int | None
    spec_limit: int | None
    override: Override | None = None
    oldest_at: datetime | None = None
    pause: Pause | None = None
    rate: RateUse | None = None
    rate_used: int | None = None
    breaker: BreakerView | None = None

    @property
    def capped(self) -> bool:
        """Whether more wait than were counted."""
        return self.depth >= MAX_DEPTH_COUNTED
