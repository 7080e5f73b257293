"""Patterns of failure in a Task's recent attempts: when each begins to hold, and when it is over.

A pattern that holds ends only when half of what began it is left, so that it does not come and go.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from milepost_operator.domain import memory
from milepost_operator.domain.findings import PATTERNS, Finding, Kind, Tried
from milepost_operator.domain.states import Reason

_PLANNED: Final = frozenset(
    {Reason.SUCCEEDED, Reason.SUSPENDED, Reason.STEP_BACKOFF, Reason.PAUSED, Reason.CANCELLED, Reason.CODE_CHANGED}
)
_SHARE: Final = 0.5
_GROWING_RUNS: Final = 5
"""Runs that a warm pod must have had before their memory says anything."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What it takes; 0 of a number: never. `window_seconds`: what is looked at, by the ends of attempts.

    `gap_seconds`: an attempt that is lost so long after its last record repeats too much. `growth`: the last runs of a
    warm pod took so many times the memory of the first.
    """

    window_seconds: float = 3600.0
    timeouts: int = 3
    retries: int = 20
    gap_seconds: float = 300.0
    growth: float = 1.5
    pulls: int = 3


@dataclass(frozen=True, slots=True)
class _Sight:
    """How much of a pattern there is, how much begins it, and what to say of it."""

    count: int
    enough: int
    message: str


def find(
    tried: Sequence[Tried], before: Mapping[Kind, Finding], thresholds: Thresholds, now: datetime
) -> dict[Kind, Finding]:
    """The patterns after `tried`, each that holds or has held before. One that goes on to hold keeps its message."""
    found: dict[Kind, Finding] = {}
    for kind in PATTERNS:
        known = before.get(kind)
        held = known is not None and known.holds
        sight = _LOOKS[kind](tried, thresholds, now)
        needed = sight.enough / 2 if held else sight.enough
        holds = sight.enough > 0 and sight.count > 0 and (sight.count > needed if held else sight.count >= needed)
        if known and held == holds:
            found[kind] = known
        elif holds:
            found[kind] = Finding(kind, True, kind.value, sight.message, sight.count)
        elif known:
            found[kind] = Finding(
                kind, False, "Over", f"no more than {sight.count} left of: {known.message}", sight.count
            )
    return found


def _timeouts(tried: Sequence[Tried], thresholds: Thresholds, now: datetime) -> _Sight:
    ended = _ended(tried, thresholds.window_seconds, now)
    late = [one for one in ended if one.reason == Reason.TIMEOUT]
    few = len(late) < _SHARE * len(ended)
    runs = len({one.run for one in late})
    message = (
        f"{len(late)} of {len(ended)} attempts of the last {_minutes(thresholds.window_seconds)} ran into "
        f"timeouts.attemptSeconds, in {runs} {'run' if runs == 1 else 'runs'}: raise it, or record steps so that each "
        "attempt gets further"
    )
    return _Sight(0 if few else len(late), thresholds.timeouts, message)


def _retries(tried: Sequence[Tried], thresholds: Thresholds, now: datetime) -> _Sight:
    since = now - timedelta(seconds=thresholds.window_seconds)
    again = [one for one in tried if one.cause == "retry" and one.reserved_at >= since]
    ended = _ended(tried, thresholds.window_seconds, now)
    failed = [one for one in ended if one.counted]
    few = len(failed) < _SHARE * len(ended)
    reasons = [str(one.reason) for one in failed]
    most = max(sorted(set(reasons)), key=reasons.count, default="none")
    message = (
        f"{len(again)} retries in the last {_minutes(thresholds.window_seconds)}, and {len(failed)} of {len(ended)} "
        f"attempts failed, most by {most}"
    )
    return _Sight(0 if few else len(again), thresholds.retries, message)


def _gaps(tried: Sequence[Tried], thresholds: Thresholds, now: datetime) -> _Sight:
    lost = [
        one
        for one in _ended(tried, thresholds.window_seconds, now)
        if one.reason not in _PLANNED and one.started_at is not None and one.gap_seconds >= thresholds.gap_seconds
    ]
    longest = max((one.gap_seconds for one in lost), default=0.0)
    message = (
        f"{len(lost)} {'attempt' if len(lost) == 1 else 'attempts'} of the last {_minutes(thresholds.window_seconds)} "
        f"ended up to {_minutes(longest)} after the last record: all of that is done again; record more often"
    )
    return _Sight(len(lost), 1 if thresholds.gap_seconds > 0 else 0, message)


def _growth(tried: Sequence[Tried], thresholds: Thresholds, now: datetime) -> _Sight:
    pods: dict[str, list[Tried]] = {}
    for one in sorted(_ended(tried, thresholds.window_seconds, now), key=lambda t: t.ended_at or now):
        pods.setdefault(one.pod, []).append(one)
    growing = [of for of in pods.values() if of[-1].grew or _grows(of, thresholds.growth)]
    first = [one.resident_bytes for one in max(growing, key=len, default=[]) if one.resident_bytes]
    rise = f", from {memory.rounded(first[0])} to {memory.rounded(first[-1])} in one of them" if first else ""
    message = (
        f"memory grew from run to run in {len(growing)} of {len(pods)} {'pod' if len(pods) == 1 else 'pods'}{rise}: "
        "what the module keeps at import grows; set warm.maxRuns lower until that is mended"
    )
    return _Sight(len(growing), 1 if thresholds.growth > 0 else 0, message)


def _grows(runs: Sequence[Tried], growth: float) -> bool:
    """The last third took `growth` times what the first third did, and no run took much less than the one before it."""
    sizes = [one.resident_bytes for one in runs if one.reason == Reason.SUCCEEDED and one.resident_bytes]
    if growth <= 0 or len(sizes) < _GROWING_RUNS:
        return False
    third = math.ceil(len(sizes) / 3)
    rising = all(after >= _STEADY * before for before, after in itertools.pairwise(sizes))
    return rising and statistics.median(sizes[-third:]) >= growth * statistics.median(sizes[:third])


_STEADY: Final = 0.95


def _pulls(tried: Sequence[Tried], thresholds: Thresholds, now: datetime) -> _Sight:
    """Pulls that fail and then succeed: an image that is simply wrong never does, and fails its runs by itself."""
    since = now - timedelta(seconds=thresholds.window_seconds)
    recent = [one for one in tried if one.reserved_at >= since]
    failed = {one.pod for one in recent if one.pull_failed}
    works = any(one.started_at is not None for one in recent)
    message = (
        f"the image could not be pulled at first for {len(failed)} pods of the last "
        f"{_minutes(thresholds.window_seconds)}, while others started: look at the registry and its limits"
    )
    return _Sight(len(failed) if works else 0, thresholds.pulls, message)


def _ended(tried: Sequence[Tried], seconds: float, now: datetime) -> list[Tried]:
    since = now - timedelta(seconds=seconds)
    return [one for one in tried if one.ended_at is not None and one.ended_at >= since]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.0f} min"  # noqa: PLR2004  a minute


_LOOKS: Final[dict[Kind, Callable[[Sequence[Tried], Thresholds, datetime], _Sight]]] = {
    Kind.TIMEOUT_LOOP: _timeouts,
    Kind.RETRY_STORM: _retries,
    Kind.CHECKPOINT_GAP: _gaps,
    Kind.MEMORY_GROWTH: _growth,
    Kind.PULL_FLAPPING: _pulls,
}
