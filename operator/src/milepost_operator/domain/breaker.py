"""A queue's circuit breaker: too many failures in a window open it, a few probes later close it or open it again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

MAX_FAILURES: Final = 1000
"""Times of failures kept in a row, so the most that a policy may ask for."""


class Phase(StrEnum):
    """`open` admits nothing; `halfOpen` admits as many probes as the policy says."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "halfOpen"


class Verdict(StrEnum):
    """What an attempt's end says of the work: losses of infrastructure, cancels and pauses say nothing."""

    SUCCESS = "success"
    FAILURE = "failure"
    NEUTRAL = "neutral"


@dataclass(frozen=True, slots=True)
class Policy:
    """Open for `open_seconds` after `failures` within `window_seconds`; then `probes` must succeed, one after another
    or together.
    """

    failures: int
    window_seconds: int = 60
    open_seconds: int = 30
    probes: int = 1


@dataclass(frozen=True, slots=True)
class Breaker:
    """`since`: when the phase began. `until`: when `open` ends. `failures`: their times in the window, oldest first.

    `passed`: probes that succeeded in this half-open phase.
    """

    phase: Phase = Phase.CLOSED
    since: datetime | None = None
    until: datetime | None = None
    failures: tuple[datetime, ...] = ()
    passed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one attempt: when it was admitted and when it ended."""

    verdict: Verdict
    admitted_at: datetime
    ended_at: datetime


def decide(policy: Policy, before: Breaker, outcomes: Sequence[Outcome], now: datetime) -> Breaker:
    """The breaker after `outcomes`, at `now`.

    Attempts that were admitted before a half-open phase began are no probes of it: they say nothing. A clock that was
    set back opens no breaker longer than `open_seconds` from now.
    """
    breaker = _clamped(policy, before, now)
    for outcome in sorted(outcomes, key=lambda one: one.ended_at):
        breaker = _after(policy, _due(breaker, outcome.ended_at), outcome, now)
    return _forgetting(policy, _due(breaker, now), now)


def room(policy: Policy, breaker: Breaker, probing: int) -> int | None:
    """How many may be admitted now, None: any number. `probing`: live attempts of this half-open phase."""
    if breaker.phase is Phase.CLOSED:
        return None
    if breaker.phase is Phase.OPEN:
        return 0
    return max(0, policy.probes - breaker.passed - probing)


def _clamped(policy: Policy, breaker: Breaker, now: datetime) -> Breaker:
    latest = now + timedelta(seconds=policy.open_seconds)
    if breaker.until is not None and breaker.until > latest:
        return replace(breaker, until=latest)
    return breaker


def _due(breaker: Breaker, at: datetime) -> Breaker:
    """Half-open once the time of an open one is over."""
    if breaker.phase is Phase.OPEN and breaker.until is not None and breaker.until <= at:
        return Breaker(Phase.HALF_OPEN, since=breaker.until)
    return breaker


def _after(policy: Policy, breaker: Breaker, outcome: Outcome, now: datetime) -> Breaker:
    if outcome.verdict is Verdict.NEUTRAL or breaker.phase is Phase.OPEN:
        return breaker
    if breaker.phase is Phase.HALF_OPEN:
        return _after_probe(policy, breaker, outcome, now)
    if outcome.verdict is Verdict.SUCCESS:
        return breaker
    window = timedelta(seconds=policy.window_seconds)
    recent = (*(at for at in breaker.failures if at > outcome.ended_at - window), outcome.ended_at)
    if len(recent) < policy.failures:
        return replace(breaker, failures=recent)
    return _opened(policy, outcome, now)


def _after_probe(policy: Policy, breaker: Breaker, outcome: Outcome, now: datetime) -> Breaker:
    if breaker.since is not None and outcome.admitted_at < breaker.since:
        return breaker
    if outcome.verdict is Verdict.FAILURE:
        return _opened(policy, outcome, now)
    passed = breaker.passed + 1
    return Breaker(since=outcome.ended_at) if passed >= policy.probes else replace(breaker, passed=passed)


def _opened(policy: Policy, outcome: Outcome, now: datetime) -> Breaker:
    at = min(outcome.ended_at, now)
    return Breaker(Phase.OPEN, since=at, until=at + timedelta(seconds=policy.open_seconds))


def _forgetting(policy: Policy, breaker: Breaker, now: datetime) -> Breaker:
    window = timedelta(seconds=policy.window_seconds)
    return replace(breaker, failures=tuple(at for at in breaker.failures if at > now - window)[-MAX_FAILURES:])
