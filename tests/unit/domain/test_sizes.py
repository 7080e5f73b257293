"""What memory is proposed, from what attempts took, and that the proposal does not come and go."""

import pytest

from milepost_operator.domain.findings import Finding, Kind, Tried
from milepost_operator.domain.sizes import propose
from milepost_operator.domain.states import Reason
from tests.unit.domain.tried import MIB, tried

LIMIT = 512 * MIB


def took(*mebibytes: int, **changes: object) -> list[Tried]:
    return [tried(n, peak_bytes=size * MIB, **changes) for n, size in enumerate(mebibytes)]  # type: ignore[arg-type]


def short(count: int = 1, at: int = 0) -> list[Tried]:
    return [tried(500 + n, Reason.OOM, memory_class=at * MIB) for n in range(count)]


@pytest.mark.parametrize(
    ("seen", "reason", "proposed"),
    [
        (took(*[100] * 4), None, None),
        (took(*[300] * 5), "Fits", 0),
        (took(*[100] * 19), "Fits", 0),
        (took(*[100] * 20), "Lower", 128),
        (took(*[10] * 20), "Lower", 64),
        (took(*[250] * 30), "Fits", 0),
        (took(*[420] * 5), "Raise", 544),
        (took(*[100] * 95, *[470] * 5), "Raise", 544),
        (short(), "Raise", 768),
        (took(*[300] * 20) + short(), "Raise", 768),
        (took(*[800] * 5, memory_class=1024 * MIB) + short(), "Raise", 1024),
        (took(*[800] * 5, memory_class=1024 * MIB) + short(1, at=1024), "Raise", 1536),
        (took(*[510] * 20, resident_bytes=90 * MIB), "Lower", 128),  # full of cached files
        (took(*[420] * 5, version=7), None, None),
        ([tried(n, None, peak_bytes=420 * MIB) for n in range(9)], None, None),
    ],
)
def test_what_is_proposed(seen: list[Tried], reason: str | None, proposed: int | None) -> None:
    found = propose(seen, 1, LIMIT, None)
    assert (found and found.reason, found and found.value // MIB) == (reason, proposed)
    if found:
        assert found.holds is (reason != "Fits")
        assert found.kind is Kind.MEMORY_PROPOSAL


def test_the_sentence_says_what_to_do_and_why() -> None:
    found = propose(took(*[420] * 9) + short(2), 1, LIMIT, None)
    assert found
    assert found.message.startswith("raise resources.limits.memory from 512Mi to 768Mi: of 9 attempts of version 1,")
    assert found.message.endswith("95 % stayed below 420Mi and the largest took 420Mi; 2 attempts ran out of memory")


def test_without_a_limit_there_is_nothing_to_propose() -> None:
    assert propose(took(*[420] * 9), 1, 0, None) is None


def told(reason: str, mebibytes: int) -> Finding:
    return Finding(Kind.MEMORY_PROPOSAL, reason != "Fits", reason, "as it was", mebibytes * MIB)


@pytest.mark.parametrize(
    ("seen", "before", "stays"),
    [
        (took(*[380] * 9), told("Raise", 544), True),
        (took(*[330] * 9), told("Raise", 544), False),
        (took(*[230] * 20), told("Lower", 288), True),
        (took(*[280] * 20), told("Lower", 288), False),
        (took(*[450] * 9), told("Raise", 544), True),
        (took(*[600] * 9, memory_class=1024 * MIB), told("Raise", 544), False),
        (took(*[300] * 9), told("Fits", 0), True),
        (took(*[100] * 3), told("Raise", 544), True),
    ],
)
def test_small_changes_are_not_told(seen: list[Tried], before: Finding, stays: bool) -> None:
    found = propose(seen, 1, LIMIT, before)
    assert (found == before) is stays
