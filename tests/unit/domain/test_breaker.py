"""A queue's circuit breaker, as a table of what happens to it."""

from datetime import UTC, datetime, timedelta

import pytest

from milepost_operator.domain.breaker import Breaker, Outcome, Phase, Policy, Verdict, decide, room
from milepost_operator.domain.runs import Ending
from milepost_operator.domain.settlement import verdict_of
from milepost_operator.domain.states import Reason

T0 = datetime(2026, 5, 1, 12, tzinfo=UTC)
POLICY = Policy(failures=3, window_seconds=60, open_seconds=30, probes=2)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def ended(seconds: float, verdict: Verdict = Verdict.FAILURE, *, after: float = 0.0) -> Outcome:
    """An attempt that ended at `seconds` and was admitted at `after`."""
    return Outcome(verdict, at(after), at(seconds))


OPEN = Breaker(Phase.OPEN, since=at(0), until=at(30))
HALF = Breaker(Phase.HALF_OPEN, since=at(30))
OK = Verdict.SUCCESS


@pytest.mark.parametrize(
    ("before", "outcomes", "now", "phase"),
    [
        (Breaker(), [], 0, Phase.CLOSED),
        (Breaker(), [ended(1), ended(2)], 3, Phase.CLOSED),
        (Breaker(), [ended(1), ended(2), ended(3)], 3, Phase.OPEN),
        (Breaker(), [ended(3), ended(1), ended(2)], 3, Phase.OPEN),
        (Breaker(failures=(at(1), at(2))), [ended(3)], 3, Phase.OPEN),
        (Breaker(failures=(at(1), at(2))), [ended(61.5)], 62, Phase.CLOSED),
        (Breaker(), [ended(1), ended(2, OK), ended(3), ended(4)], 5, Phase.OPEN),
        (Breaker(), [ended(n, Verdict.NEUTRAL) for n in range(9)], 9, Phase.CLOSED),
        (OPEN, [], 29, Phase.OPEN),
        (OPEN, [], 30, Phase.HALF_OPEN),
        (OPEN, [ended(5, OK)], 6, Phase.OPEN),
        (HALF, [ended(40, OK, after=31)], 41, Phase.HALF_OPEN),
        (HALF, [ended(40, OK, after=31), ended(41, OK, after=31)], 41, Phase.CLOSED),
        (HALF, [ended(40, OK, after=31), ended(41, after=31)], 41, Phase.OPEN),
        (HALF, [ended(40, after=29), ended(41, OK, after=29)], 41, Phase.HALF_OPEN),
        (HALF, [ended(40, Verdict.NEUTRAL, after=31)], 41, Phase.HALF_OPEN),
    ],
)
def test_the_phase_that_follows(before, outcomes, now, phase):
    assert decide(POLICY, before, outcomes, at(now)).phase is phase


def test_it_is_open_for_its_time_from_the_failure_on():
    opened = decide(POLICY, Breaker(), [ended(1), ended(2), ended(3)], at(9))
    assert (opened.since, opened.until) == (at(3), at(33))


def test_a_failed_probe_opens_it_for_a_whole_time_again():
    again = decide(POLICY, HALF, [ended(50, after=40)], at(50))
    assert (again.phase, again.until) == (Phase.OPEN, at(80))


def test_once_closed_old_failures_are_forgotten():
    closed = decide(POLICY, HALF, [ended(40, OK, after=31), ended(41, OK, after=31)], at(41))
    assert closed.failures == ()
    assert decide(POLICY, closed, [ended(42), ended(43)], at(44)).phase is Phase.CLOSED


def test_outcomes_in_one_turn_or_in_many_are_the_same():
    outcomes = [ended(1), ended(5), ended(9), ended(41, OK, after=40), ended(42, OK, after=40), ended(43)]
    together = decide(POLICY, Breaker(), outcomes, at(44))
    single = Breaker()
    for one in outcomes:
        single = decide(POLICY, single, [one], one.ended_at)
    assert decide(POLICY, single, [], at(44)) == together


def test_a_clock_set_back_keeps_it_open_no_longer_than_its_time():
    assert decide(POLICY, OPEN, [], at(-3600)).until == at(-3570)


@pytest.mark.parametrize(
    ("breaker", "probing", "expected"),
    [
        (Breaker(), 5, None),
        (OPEN, 0, 0),
        (HALF, 0, 2),
        (HALF, 1, 1),
        (HALF, 7, 0),
        (Breaker(Phase.HALF_OPEN, since=at(30), passed=1), 0, 1),
    ],
)
def test_room_for_admissions(breaker, probing, expected):
    assert room(POLICY, breaker, probing) == expected


@pytest.mark.parametrize(
    ("ending", "cancelled", "expected"),
    [
        (Ending(Reason.SUCCEEDED, "", counted=False), False, Verdict.SUCCESS),
        (Ending(Reason.SUCCEEDED, "", counted=False), True, Verdict.NEUTRAL),
        (Ending(Reason.USER_FAILURE, ""), False, Verdict.FAILURE),
        (Ending(Reason.USER_FAILURE, ""), True, Verdict.NEUTRAL),
        (Ending(Reason.OOM, ""), False, Verdict.FAILURE),
        (Ending(Reason.TIMEOUT, ""), False, Verdict.FAILURE),
        (Ending(Reason.RUN_TIMEOUT, "", counted=False), False, Verdict.FAILURE),
        (Ending(Reason.POD_LOST, "", counted=False, infra=True), False, Verdict.NEUTRAL),
        (Ending(Reason.CONFIG, "", counted=False, final=True), False, Verdict.NEUTRAL),
        (Ending(Reason.PAUSED, "", counted=False, started=False), False, Verdict.NEUTRAL),
    ],
)
def test_what_an_end_says(ending, cancelled, expected):
    assert verdict_of(ending, cancel_requested=cancelled) is expected
