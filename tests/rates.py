"""Rate limits as arithmetic: what may be admitted now, and when more may. The SQL functions of admission (0003)
are held against it.

A window admits at most `limit` in any window of its period: the period has 60 slices, and the last 61 of them (any
window of that length lies within them) hold together at most `limit`. A bucket fills at that rate up to `burst`.
A clock that goes back stands still.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from milepost_operator.domain.runs import Rate

SLICES: Final = 60


@dataclass(frozen=True, slots=True)
class RateState:
    """`at`: newest time seen. `seconds`: the period. `counts`: cost per slice, newest first. `tokens`: of buckets."""

    at: datetime
    seconds: float
    counts: Sequence[int]
    tokens: float


def at(rate: Rate, state: RateState | None, now: datetime) -> RateState:
    """The state as of `now`. After a change of the period a slice's cost counts at the latest moment it can be of."""
    capacity = float(rate.burst or rate.limit)
    period = float(rate.period_seconds)
    if state is None:
        return RateState(now, period, (0,) * (SLICES + 1), capacity)
    now = max(now, state.at)
    filled = (now - state.at).total_seconds() * rate.limit / period
    counts = [0] * (SLICES + 1)
    width, old = period / SLICES, state.seconds / SLICES
    seen, newest = state.at.timestamp(), _slice(now.timestamp(), width)
    for index, count in enumerate(state.counts):
        if count == 0:
            continue
        if state.seconds == period:
            moved = newest - _slice(seen, width) + index
        else:
            moved = newest - _slice(min(seen, (_slice(seen, old) - index + 1) * old), width)
        if moved <= SLICES:
            counts[moved] += count
    return RateState(now, period, tuple(counts), min(capacity, state.tokens + filled))


def free(rate: Rate, state: RateState) -> int:
    """What may be admitted at `state.at`."""
    if rate.algorithm == "bucket":
        return math.floor(state.tokens)
    return max(0, rate.limit - sum(state.counts))


def counted(rate: Rate, cost: int) -> int:
    """What a cost counts: one above the limit waits for the whole of it."""
    return min(cost, (rate.burst or rate.limit) if rate.algorithm == "bucket" else rate.limit)


def take(state: RateState, cost: int) -> RateState:
    return replace(state, counts=(state.counts[0] + cost, *state.counts[1:]), tokens=state.tokens - cost)


def next_token_at(rate: Rate, state: RateState | None, now: datetime, cost: int = 1) -> datetime:
    """The earliest time at which `cost` may be admitted if nothing else is; `now` when it may at once."""
    current = at(rate, state, now)
    need = counted(rate, cost)
    if need <= free(rate, current):
        return current.at
    if rate.algorithm == "bucket":
        return current.at + timedelta(seconds=(need - current.tokens) * current.seconds / rate.limit)
    lacking = need + sum(current.counts) - rate.limit
    width = current.seconds / SLICES
    for index in range(SLICES, -1, -1):
        lacking -= current.counts[index]
        if lacking <= 0:
            gone = (_slice(current.at.timestamp(), width) - index + SLICES + 1) * width
            return datetime.fromtimestamp(gone, UTC)
    raise AssertionError("a cost is counted as the limit at most")


def _slice(seconds: float, width: float) -> int:
    return math.floor(seconds / width)
