"""Which slots fire: lateness, missed slots, overlap, jitter, start and end. Every minute, unless it says otherwise."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest

from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.schedules import ScheduleSpec, check
from milepost_operator.domain.slots import Decision, Due, begin, decide, input_of, slots_between

ID = UUID("5e0a9d2e-93a4-4b6e-8f0e-0d6f6d6a1b11")
NOON = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp())
SPEC = ScheduleSpec("* * * * *")
MINUTE, HOUR, DAY = 60, 3600, 86_400


def decided(late: float, now: float = NOON + 0.5, live: int = 0, room: int = 100, **changes: object) -> Decision:
    """The decision `now` for a schedule whose cursor is `late` seconds old."""
    spec = replace(SPEC, **changes)  # type: ignore[arg-type]
    return decide(Due(ID, spec, int(now - late), live), now, room)


def minutes(decision: Decision) -> list[int]:
    """Slots as minutes before noon."""
    return [(NOON - slot) // MINUTE for slot in decision.slots]


def test_what_is_due_fires_and_the_cursor_is_on_it() -> None:
    done = decided(59)
    assert (minutes(done), done.cursor, done.next_slot, done.look_at) == ([0], NOON, NOON + 60, NOON + 60)
    assert (done.dropped, done.note) == (0, None)


def test_nothing_is_due_before_its_time() -> None:
    done = decided(30, now=NOON + 45)
    assert (done.slots, done.next_slot) == ([], NOON + 60)


@pytest.mark.parametrize("missed", ["skip", "latest", "catchup"])
def test_a_slot_sixty_seconds_late_is_not_missed(missed: str) -> None:
    done = decided(DAY, now=NOON + 60, cron="0 12 * * *", missed=missed)
    assert (done.slots, done.dropped) == ([NOON], 0)


@pytest.mark.parametrize(
    ("missed", "fired", "dropped"), [("skip", [], 59), ("latest", [0], 58), ("catchup", list(range(58, -1, -1)), 0)]
)
def test_missed_slots_follow_the_policy(missed: str, fired: list[int], dropped: int) -> None:
    """An hour of outage, of a schedule that rests since its last slot."""
    done = decided(HOUR, now=NOON + 61, missed=missed, end_at=datetime.fromtimestamp(NOON + 1, UTC))
    assert minutes(done) == fired
    assert (done.dropped, done.next_slot, done.look_at) == (dropped, None, None)
    if dropped:
        assert done.note
        assert "2026-11-20T11:0" in done.note


@pytest.mark.parametrize(("missed", "fired"), [("skip", [0]), ("latest", [0])])
def test_a_slot_in_time_stands_for_the_missed_ones(missed: str, fired: list[int]) -> None:
    done = decided(HOUR, missed=missed)
    assert (minutes(done), done.dropped) == (fired, 59)
    assert done.note == f"59 slots did not run (missed: {missed}): 2026-11-20T11:01:00[UTC] to 2026-11-20T11:59:00[UTC]"


def test_catchup_goes_in_order_by_parts_and_ends() -> None:
    cursor, seen = NOON - HOUR, []
    for _ in range(7):
        done = decide(Due(ID, replace(SPEC, missed="catchup"), cursor), NOON + 0.5, 10)
        seen += done.slots
        cursor = done.cursor
    assert seen == list(range(NOON - HOUR + 60, NOON + 1, 60))
    assert (done.slots, done.look_at) == ([], NOON + 60)


def test_catchup_says_what_its_cap_dropped() -> None:
    done = decided(HOUR, missed="catchup", catchup_limit=5, cron="* * * * *")
    assert minutes(done) == [4, 3, 2, 1, 0]
    assert (done.dropped, "55 slots did not run (catchupLimit: 5)" in str(done.note)) == (55, True)
    assert "to 2026-11-20T11:55:00[UTC]" in str(done.note)


def test_a_year_of_outage_costs_little() -> None:
    done = decided(365 * DAY, missed="catchup", room=1)
    assert done.slots == [NOON - 9_999 * 60]
    assert "100 or more slots" in str(done.note)
    assert "to 2026-11-13T13:20:00[UTC]" in str(done.note)


@pytest.mark.parametrize(("live", "fired", "overlapped"), [(0, [0], 0), (1, [], 1)])
def test_forbid_passes_over_slots_while_a_run_lives(live: int, fired: list[int], overlapped: int) -> None:
    done = decided(59, live=live, overlap="forbid")
    assert (minutes(done), done.overlapped, done.cursor) == (fired, overlapped, NOON)


def test_forbid_with_catchup_goes_one_by_one() -> None:
    first = decided(3 * MINUTE, overlap="forbid", missed="catchup")
    assert (minutes(first), first.cursor, first.look_at) == ([2], NOON - 120, NOON + 2.5)
    waiting = decide(Due(ID, replace(SPEC, overlap="forbid", missed="catchup"), first.cursor, 1), NOON + 3, 100)
    assert (waiting.slots, waiting.cursor, waiting.overlapped) == ([], NOON - 61, 0)
    assert waiting.next_slot == NOON - 60
    assert waiting.look_at == NOON + 5


@pytest.mark.parametrize(("live", "replaced"), [(0, False), (2, True)])
def test_replace_cancels_what_lives_and_fires_the_newest(live: int, replaced: bool) -> None:
    done = decided(3, now=NOON + 3, live=live, overlap="replace", cron="* * * * * *")
    assert (done.slots, done.replace, done.overlapped) == ([NOON + 3], replaced, 2)


def test_jitter_delays_by_the_same_part_each_time_and_keeps_the_slot() -> None:
    spec = replace(SPEC, jitter_seconds=50)
    first = begin(ID, spec, NOON)
    assert first == begin(ID, spec, NOON)
    assert (first.cursor, first.next_slot) == (NOON, NOON + 60)
    assert first.look_at is not None
    assert NOON + 60 < first.look_at < NOON + 110
    early = decide(Due(ID, spec, NOON), first.look_at - 0.01, 10)
    assert (early.slots, early.look_at) == ([], first.look_at)
    assert decide(Due(ID, spec, NOON), first.look_at, 10).slots == [NOON + 60]
    others = {begin(UUID(int=n), spec, NOON).look_at for n in range(50)}
    assert len(others) == 50


@pytest.mark.parametrize("missed", ["skip", "latest", "catchup"])
@pytest.mark.parametrize(("cron", "jitter"), [("* * * * *", 300), ("* * * * *", 7200), ("*/2 * * * * *", 60)])
def test_jitter_beyond_the_next_slot_loses_none(missed: str, cron: str, jitter: int) -> None:
    spec = replace(SPEC, cron=cron, jitter_seconds=jitter, missed=missed)  # type: ignore[arg-type]
    step = begin(ID, spec, NOON)
    seen: list[int] = []
    now = float(NOON)
    end = NOON + (1800 if cron.count("*") == 6 else 4 * HOUR)
    while step.look_at is not None and step.look_at < end:
        now = max(step.look_at, now + 0.5) + 0.3
        step = decide(Due(ID, spec, step.cursor), now, 100)
        assert not step.dropped
        seen += step.slots
    gap = 60 if cron.count("*") == 5 else 2
    assert seen == list(range(NOON + gap, seen[-1] + 1, gap))
    assert seen[-1] > end - jitter - 2 * MINUTE


def test_lateness_counts_from_the_jittered_time() -> None:
    spec = replace(SPEC, cron="0 12 * * *", jitter_seconds=3600)
    at = begin(ID, spec, NOON - 1).look_at
    assert at is not None
    assert decide(Due(ID, spec, NOON - 1), at + 60, 10).slots == [NOON]
    assert decide(Due(ID, spec, NOON - 1), at + 61, 10).slots == []


def test_start_and_end_bound_the_slots() -> None:
    start, end = (datetime.fromtimestamp(NOON + n * 60, UTC) for n in (5, 8))
    spec = replace(SPEC, start_at=start, end_at=end)
    assert begin(ID, spec, NOON).next_slot == NOON + 300
    assert slots_between(spec, NOON - DAY, NOON + DAY, 10) == [NOON + n * 60 for n in (5, 6, 7)]
    assert begin(ID, spec, NOON + 7 * 60).next_slot is None


def test_an_input_may_speak_of_its_slot() -> None:
    assert input_of('{"a": 1}', NOON, "UTC") is None
    text = input_of('{"for": "$(slot)", "key": "d-$(slot.utc)"}', NOON, "Europe/Berlin")
    assert text == '{"for": "2026-11-20T13:00:00", "key": "d-2026-11-20T12:00:00Z"}'


def test_a_clock_that_goes_back_fires_nothing_twice() -> None:
    done = decide(Due(ID, SPEC, NOON), NOON - 600.0, 10)
    assert (done.slots, done.cursor, done.next_slot) == ([], NOON, NOON + 60)


def test_an_edit_and_a_resume_begin_now() -> None:
    assert begin(ID, SPEC, NOON).next_slot == NOON + 60


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"cron": "61 * * * *"}, "cron", "minute"),
        ({"time_zone": "Europe/Berlln"}, "timeZone", "did you mean 'Europe/Berlin'?"),
        ({"overlap": "replace", "missed": "catchup"}, "missed", "use latest"),
        ({"start_at": datetime(2026, 1, 2, tzinfo=UTC), "end_at": datetime(2026, 1, 1, tzinfo=UTC)}, "endAt", "after"),
        (
            {
                "cron": "0 0 1 7 *",
                "start_at": datetime(2026, 1, 1, tzinfo=UTC),
                "end_at": datetime(2026, 5, 1, tzinfo=UTC),
            },
            "endAt",
            "no slot of cron",
        ),
        ({"cron": "* * * * * *", "jitter_seconds": 61}, "jitterSeconds", "above 60"),
        ({"start_at": datetime(2026, 1, 1)}, "startAt", "needs an offset"),  # noqa: DTZ001
    ],
)
def test_what_can_not_work_is_refused_at_its_field(changes: dict[str, object], path: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said.replace("?", "[?]")) as caught:
        check(replace(SPEC, **changes))  # type: ignore[arg-type]
    assert caught.value.path == path
