"""Memory of a run's pods: what the next attempt has after one that ran out of it."""

import math
from typing import Final

from milepost_operator.domain.runs import Retry

MEBIBYTE: Final = 1024**2
_UNITS: Final = (("Gi", 1024**3), ("Mi", MEBIBYTE), ("G", 10**9), ("M", 10**6), ("Ki", 1024))


def next_class(retry: Retry, limit: int) -> int:
    """Bytes that the attempt after an OOM at `limit` has; `limit` itself (0: none known) where it is not to have more.

    A whole number of MiB, but for the cap.
    """
    if retry.oom_factor is None or limit <= 0:
        return limit
    wanted = math.ceil(limit * retry.oom_factor / MEBIBYTE) * MEBIBYTE
    return max(limit, min(wanted, retry.oom_max_bytes or wanted))


def shown(size: int) -> str:
    """A quantity of exactly so many bytes, as people write it: 512Mi, 1Gi."""
    return next((f"{size // unit}{name}" for name, unit in _UNITS if size and size % unit == 0), str(size))


def rounded(size: int) -> str:
    """About so many bytes, for people: 480Mi, 1.4Gi."""
    gibibytes = size / 1024**3
    return f"{gibibytes:.1f}Gi" if gibibytes >= 1 else f"{math.ceil(size / MEBIBYTE)}Mi"


def told(retry: Retry, attempt: int, limit: int) -> str:
    """What the attempt after an OOM has, in a sentence; `attempt`: the one that ended, at `limit`; 0: not known."""
    if limit <= 0:
        return ""
    following = next_class(retry, limit)
    if following > limit:
        return f"attempt {attempt + 1} has {shown(following)} after an OOM at {shown(limit)}"
    most = ", the most it may have" if retry.oom_factor is not None else ""
    return f"attempt {attempt + 1} has {shown(limit)} again{most}"
