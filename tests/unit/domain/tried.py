"""Attempts for the tests of patterns and of proposals."""

from datetime import UTC, datetime, timedelta

from milepost_operator.domain.findings import Tried
from milepost_operator.domain.states import Reason

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
MIB = 1024**2


def tried(number: int = 0, reason: Reason | None = Reason.SUCCEEDED, *, ago: float = 60.0, **changes: object) -> Tried:
    """One that ended `ago` seconds before NOW (no reason: that is at work)."""
    ended = NOW - timedelta(seconds=ago)
    plain: dict[str, object] = {
        "run": f"run-{number}",
        "attempt": 1,
        "pod": f"pod-{number}",
        "version": 1,
        "cause": "first",
        "reason": reason,
        "counted": reason not in {Reason.SUCCEEDED, Reason.NODE_LOST, Reason.POD_LOST, None},
        "infra": reason in {Reason.NODE_LOST, Reason.POD_LOST},
        "reserved_at": ended - timedelta(seconds=11),
        "started_at": ended - timedelta(seconds=10),
        "ended_at": None if reason is None else ended,
        "gap_seconds": 1.0,
        "peak_bytes": 0,
        "resident_bytes": 0,
        "memory_class": 0,
        "pull_failed": False,
        "grew": False,
    }
    return Tried(**(plain | changes))  # type: ignore[arg-type]
