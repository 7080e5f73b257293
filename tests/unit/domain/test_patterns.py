"""What makes a pattern, what is not one yet, and when it is over."""

from dataclasses import replace

import pytest

from milepost_operator.domain.findings import Finding, Kind, Tried
from milepost_operator.domain.patterns import Thresholds, find
from milepost_operator.domain.states import Reason
from tests.unit.domain.tried import MIB, NOW, tried

PLAIN = Thresholds()


def late(count: int, **changes: object) -> list[Tried]:
    return [tried(n, Reason.TIMEOUT, **changes) for n in range(count)]  # type: ignore[arg-type]


def fine(count: int) -> list[Tried]:
    return [tried(1000 + n) for n in range(count)]


def retries(count: int, reason: Reason = Reason.USER_FAILURE) -> list[Tried]:
    return [tried(n, reason, cause="retry") for n in range(count)]


def lost(gap: float, reason: Reason = Reason.NODE_LOST, **changes: object) -> list[Tried]:
    return [tried(1, reason, gap_seconds=gap, **changes)]  # type: ignore[arg-type]


def warm(*sizes: int, reason: Reason = Reason.SUCCEEDED) -> list[Tried]:
    """Runs of one pod, one after the other."""
    return [tried(n, reason, pod="pod", ago=600.0 - n, resident_bytes=size * MIB) for n, size in enumerate(sizes)]


def pulls(failed: int, *, works: bool = True) -> list[Tried]:
    started = {} if works else {"started_at": None}
    return [tried(n, None, pull_failed=n < failed, **started) for n in range(failed + 2)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "holds"),
    [
        ([], set()),
        (fine(50), set()),
        (late(2), set()),
        (late(3), {Kind.TIMEOUT_LOOP}),
        (late(3) + fine(3), {Kind.TIMEOUT_LOOP}),
        (late(3) + fine(4), set()),
        (late(9, ago=3700.0), set()),
        (retries(19), set()),
        (retries(20), {Kind.RETRY_STORM}),
        (retries(20) + fine(21), set()),
        (retries(20, Reason.SUCCEEDED), set()),
        (lost(299), set()),
        (lost(300), {Kind.CHECKPOINT_GAP}),
        (lost(300, Reason.OOM), {Kind.CHECKPOINT_GAP}),
        (lost(9000, Reason.SUCCEEDED), set()),
        (lost(9000, Reason.SUSPENDED), set()),
        (lost(9000, started_at=None), set()),
        (warm(100, 120, 150, 160, 190), {Kind.MEMORY_GROWTH}),
        (warm(100, 120, 150, 190), set()),
        (warm(100, 300, 100, 300, 100, 300), set()),
        (warm(100, 100, 101, 101, 102, 103), set()),
        ([tried(1, grew=True)], {Kind.MEMORY_GROWTH}),
        (pulls(2), set()),
        (pulls(3), {Kind.PULL_FLAPPING}),
        (pulls(3, works=False), set()),
    ],
)
def test_what_makes_a_pattern(seen: list[Tried], holds: set[Kind]) -> None:
    found = find(seen, {}, PLAIN, NOW)
    assert set(found) == holds
    assert all(finding.holds and finding.message for finding in found.values())


def held(kind: Kind, message: str = "as it began") -> dict[Kind, Finding]:
    return {kind: Finding(kind, True, kind.value, message, 3)}


@pytest.mark.parametrize(("count", "holds"), [(3, True), (2, True), (1, False), (0, False)])
def test_a_pattern_ends_when_half_of_it_is_left(count: int, holds: bool) -> None:
    found = find(late(count), held(Kind.TIMEOUT_LOOP), PLAIN, NOW)[Kind.TIMEOUT_LOOP]
    assert found.holds is holds
    assert "as it began" in found.message
    assert (found.reason == "Over") is not holds


def test_what_holds_keeps_its_words() -> None:
    before = held(Kind.RETRY_STORM)
    assert find(retries(80), before, PLAIN, NOW) == before


def test_what_is_over_stays_over_and_may_begin_again() -> None:
    over = {Kind.TIMEOUT_LOOP: Finding(Kind.TIMEOUT_LOOP, False, "Over", "was", 1)}
    assert find(late(2), over, PLAIN, NOW) == over
    assert find(late(3), over, PLAIN, NOW)[Kind.TIMEOUT_LOOP].holds


@pytest.mark.parametrize("off", ["timeouts", "retries", "gap_seconds", "growth", "pulls"])
def test_each_can_be_switched_off(off: str) -> None:
    """A pattern that held ends then."""
    everything = late(30) + retries(40) + lost(9000) + warm(100, 120, 150, 160, 190) + pulls(9)
    kinds = {
        "timeouts": Kind.TIMEOUT_LOOP,
        "retries": Kind.RETRY_STORM,
        "gap_seconds": Kind.CHECKPOINT_GAP,
        "growth": Kind.MEMORY_GROWTH,
        "pulls": Kind.PULL_FLAPPING,
    }
    assert kinds[off] not in find(everything, {}, replace(PLAIN, **{off: 0}), NOW)
    ended = find(everything, held(kinds[off]), replace(PLAIN, **{off: 0}), NOW)
    assert not ended[kinds[off]].holds


def test_numbers_are_told() -> None:
    said = find(lost(700) + lost(900, Reason.OOM), {}, PLAIN, NOW)[Kind.CHECKPOINT_GAP]
    assert said.message.startswith("2 attempts of the last 60 min ended up to 15 min after the last record")
    storm = find(retries(25), {}, PLAIN, NOW)[Kind.RETRY_STORM]
    assert (storm.value, "25 retries" in storm.message, "TaskFailed" in storm.message) == (25, True, True)
