from datetime import UTC, datetime

import pytest

from milepost.wire.pod import Evidence, Fence, SettleRequest, Wait, WaitKind
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.runs import Ending, Retry
from milepost_operator.domain.settlement import RunFacts, decide
from milepost_operator.domain.states import Reason, RunState
from milepost_operator.domain.suspension import MAX_SECONDS, moment, require_waits, suspended


def facts(*, cancelled: bool = False) -> RunFacts:
    return RunFacts(cancelled, 1, 4, False, Retry(max_attempts=1), 5)


def ending(*waits: Wait) -> Ending:
    return suspended(SettleRequest(Fence("r", 1, 1), "suspended", waits=list(waits), evidence=Evidence(peak_bytes=7)))


def test_a_suspension_counts_against_nothing_and_ends_a_streak_of_losses() -> None:
    after = decide(facts(), ending(Wait("k", "timer", seconds=1)), 0.5)
    assert (after.state, after.attempts_counted, after.infra_streak, after.dead_lettered) == ("suspended", 1, 0, False)
    assert decide(facts(cancelled=True), ending(Wait("k", "timer", seconds=1)), 0.5).state is RunState.CANCELLED


def test_steps_that_wait_for_their_next_try_are_a_backoff_that_counts_for_nothing() -> None:
    waits = [Wait("~retry/b", "retry", "step `b` failed", 90), Wait("~retry/a", "retry", "step `a` failed", 30.5)]
    after = decide(facts(), ending(*waits), 0.5)
    assert (after.state, after.reason, after.attempts_counted, after.infra_streak) == ("backoff", "StepBackoff", 1, 0)
    assert (after.delay_seconds, after.message) == (30.5, "step `a` failed (and 1 more)")
    assert decide(facts(cancelled=True), ending(*waits), 0.5).state is RunState.CANCELLED
    mixed = decide(facts(), ending(*waits, Wait("c", "signal", "go")), 0.5)
    assert (mixed.state, mixed.message) == ("suspended", "waits for a timer for 90 s, a timer for 30.5 s, signal go")


@pytest.mark.parametrize(
    ("wait", "place"),
    [
        (Wait("k", "retry", "n"), "$.waits[0].seconds"),
        (Wait("k", "retry", "n", until="2030-01-01T00:00:00Z"), "$.waits[0].seconds"),
        (Wait("k", "retry", "n" * 257, seconds=1), "$.waits[0].name"),
        (Wait("k", "retry", seconds=float("inf")), "$.waits[0].seconds"),
    ],
)
def test_an_improper_retry_is_refused_with_its_place(wait: Wait, place: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        require_waits([wait])
    assert refused.value.path == place


def test_a_deadline_ends_a_run_whatever_is_left_of_its_budget() -> None:
    after = decide(facts(), Ending(Reason.DEADLINE, "late", counted=False), 0.5)
    assert (after.state, after.reason, after.attempts_counted) == ("timedOut", "DeadlineExceeded", 1)


@pytest.mark.parametrize(
    ("waits", "told"),
    [
        ([Wait("nap", "timer", seconds=90)], "waits for a timer for 90 s"),
        ([Wait("a", "signal", "go", until="2030-01-01T00:00:00Z")], "waits for signal go until 2030-01-01T00:00:00Z"),
        ([Wait("deploy", "approval")], "waits for approval deploy"),
        ([Wait(str(n), "token") for n in range(5)], "waits for token 0, token 1, token 2 and 2 more"),
    ],
)
def test_what_it_waits_for_is_told(waits: list[Wait], told: str) -> None:
    assert ending(*waits).message == told


@pytest.mark.parametrize("kind", ["timer", "signal", "event", "token", "approval"])
def test_proper_waits_are_taken(kind: WaitKind) -> None:
    require_waits([Wait("k", kind, name="n", seconds=0), Wait("l", kind, name="n", seconds=MAX_SECONDS)])
    require_waits([Wait("k", kind, name="n", until="2030-01-31T09:00:00+02:00")])
    assert moment(Wait("k", kind, until="2030-01-31T09:00:00+02:00")) == datetime(2030, 1, 31, 7, tzinfo=UTC)


@pytest.mark.parametrize("until", ["2030-01-01", "2030-01-01T00:00:00", "soon", "", "2030-13-01T00:00:00Z"])
def test_a_moment_without_an_offset_is_no_moment(until: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        require_waits([Wait("k", "timer", until=until)])
    assert refused.value.path == "$.waits[0].until"
