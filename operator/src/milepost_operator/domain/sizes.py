"""How much memory a Task should have, learned from what its recent attempts took."""

import math
from collections.abc import Sequence
from typing import Final

from milepost_operator.domain.findings import Finding, Kind, Tried
from milepost_operator.domain.memory import MEBIBYTE, shown
from milepost_operator.domain.states import OUT_OF_MEMORY

NEWEST: Final = 100
"""Attempts of the version that are looked at."""
MIN_TO_RAISE: Final = 5
MIN_TO_LOWER: Final = 20
_USUAL: Final = 1.25
"""Headroom above what 95 of 100 attempts stay below."""
_MOST: Final = 1.1
"""Headroom above what the largest took."""
_AFTER_OOM: Final = 1.5
_STEP: Final = 32 * MEBIBYTE
_LEAST: Final = 2 * _STEP
_RAISE: Final = 1.0
_STILL_RAISE: Final = 0.9
_LOWER: Final = 0.5
_STILL_LOWER: Final = 0.65
_CHANGED: Final = 0.2
_FULL: Final = 0.95
"""A container that lives at its limit is full of cached files, which the kernel drops: its processes say more."""


def propose(tried: Sequence[Tried], version: int, limit: int, before: Finding | None) -> Finding | None:
    """The proposal for `version`, whose limit is `limit` bytes (0: none); None: nothing to say yet.

    It begins when the need is above the limit, or below half of it; it ends a good way inside of that, and its figure
    changes when it is off by a fifth, so that it does not come and go with each attempt.
    """
    if limit <= 0:
        return None
    recent = sorted(
        (one for one in tried if one.version == version and one.ended_at is not None),
        key=lambda one: one.ended_at,  # type: ignore[arg-type,return-value]  # ended, by the line above
        reverse=True,
    )[:NEWEST]
    peaks = sorted(peak for one in recent if (peak := _peak(one, limit)))
    short = [max(limit, one.memory_class) for one in recent if one.reason in OUT_OF_MEMORY]
    if not short and len(peaks) < MIN_TO_RAISE:
        return before
    need = _need(peaks, short)
    told = before.reason if before and before.holds else ""
    direction = _direction(need / limit, told, many=len(peaks) >= MIN_TO_LOWER)
    if not direction:
        message = f"{shown(limit)} fits: {_basis(peaks, short, version)}"
        return before if before and not before.holds else Finding(Kind.MEMORY_PROPOSAL, False, "Fits", message)
    if before and told == direction and abs(need - before.value) <= _CHANGED * before.value:
        return before
    verb = "raise" if direction == "Raise" else "lower"
    message = f"{verb} resources.limits.memory from {shown(limit)} to {shown(need)}: {_basis(peaks, short, version)}"
    return Finding(Kind.MEMORY_PROPOSAL, True, direction, message, need)


def _direction(share: float, told: str, *, many: bool) -> str:
    if share > (_STILL_RAISE if told == "Raise" else _RAISE):
        return "Raise"
    if many and share < (_STILL_LOWER if told == "Lower" else _LOWER):
        return "Lower"
    return ""


def _need(peaks: Sequence[int], short: Sequence[int]) -> int:
    """Bytes, in steps. An OOM below what others took says nothing more than they do."""
    usual = _p95(peaks) * _USUAL if peaks else 0
    most = peaks[-1] * _MOST if peaks else 0
    beyond = max((at * _AFTER_OOM for at in short if not peaks or at > peaks[-1]), default=0)
    return max(_LEAST, math.ceil(max(usual, most, beyond) / _STEP) * _STEP)


def _peak(one: Tried, limit: int) -> int:
    if one.reason in OUT_OF_MEMORY:
        return 0
    most = max(limit, one.memory_class)
    return one.peak_bytes if 0 < one.peak_bytes < _FULL * most else one.resident_bytes


def _p95(peaks: Sequence[int]) -> int:
    return peaks[math.ceil(0.95 * len(peaks)) - 1]


def _basis(peaks: Sequence[int], short: Sequence[int], version: int) -> str:
    seen = f"of {len(peaks)} attempts of version {version}, 95 % stayed below {_mebi(_p95(peaks))}" if peaks else ""
    most = f" and the largest took {_mebi(peaks[-1])}" if peaks else ""
    count = f"{len(short)} {'attempt' if len(short) == 1 else 'attempts'} ran out of memory" if short else ""
    return "; ".join(part for part in (seen + most, count) if part)


def _mebi(size: int) -> str:
    return f"{math.ceil(size / MEBIBYTE)}Mi"
