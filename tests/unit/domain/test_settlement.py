"""The one decision at the end of an attempt, rule by rule."""

import pytest

from milepost.wire.pod import Evidence, Failure, Fence, SettleRequest
from milepost_operator.domain.retry import backoff_seconds
from milepost_operator.domain.runs import Ending, Retry
from milepost_operator.domain.settlement import RunFacts, decide, ending_of
from milepost_operator.domain.states import TERMINAL, TRANSITIONS, Reason, RunState

RETRY = Retry(max_attempts=3, factor=2, min_seconds=1, max_seconds=5)


def facts(**changes: object) -> RunFacts:
    plain = {
        "cancel_requested": False,
        "attempts_counted": 0,
        "infra_streak": 0,
        "progressed": False,
        "retry": RETRY,
        "infra_budget": 5,
    }
    return RunFacts(**(plain | changes))  # type: ignore[arg-type]


FAILED = Ending(Reason.USER_FAILURE, "no")
LOST = Ending(Reason.POD_LOST, "gone", counted=False, infra=True)
DONE = Ending(Reason.SUCCEEDED, "done", counted=False)


@pytest.mark.parametrize(
    ("given", "ending", "state", "counted", "streak"),
    [
        (facts(), DONE, "succeeded", 0, 0),
        (facts(cancel_requested=True), DONE, "cancelled", 0, 0),
        (facts(cancel_requested=True), FAILED, "cancelled", 1, 0),
        (facts(), FAILED, "backoff", 1, 0),
        (facts(attempts_counted=2), FAILED, "failed", 3, 0),
        (facts(infra_streak=3), FAILED, "backoff", 1, 0),
        (facts(), LOST, "queued", 0, 1),
        (facts(infra_streak=1), LOST, "backoff", 0, 2),
        (facts(infra_streak=5), LOST, "failed", 0, 6),
        (facts(infra_streak=5, progressed=True), LOST, "queued", 0, 1),
        (facts(), Ending(Reason.CONFIG, "bad", counted=False, final=True), "failed", 0, 0),
        (facts(), Ending(Reason.RUN_TIMEOUT, "late", counted=False), "timedOut", 0, 0),
        (facts(infra_streak=2), Ending(Reason.PAUSED, "p", counted=False, started=False), "queued", 0, 2),
        (facts(cancel_requested=True), Ending(Reason.PAUSED, "p", counted=False), "cancelled", 0, 0),
    ],
)
def test_decisions(given: RunFacts, ending: Ending, state: str, counted: int, streak: int) -> None:
    following = decide(given, ending, 0.5)
    assert (following.state, following.attempts_counted, following.infra_streak) == (state, counted, streak)


def test_only_spent_budgets_are_dead_letters() -> None:
    assert decide(facts(attempts_counted=2), FAILED, 0).dead_lettered
    assert decide(facts(infra_streak=5), LOST, 0).dead_lettered
    assert not decide(facts(), Ending(Reason.FATAL, "no", final=True), 0).dead_lettered


def test_the_first_infrastructure_loss_has_no_backoff() -> None:
    assert decide(facts(), LOST, 1.0).delay_seconds == 0
    assert decide(facts(infra_streak=1), LOST, 1.0).delay_seconds > 0


def test_retry_after_is_honoured() -> None:
    assert decide(facts(), Ending(Reason.USER_FAILURE, "429", retry_after_seconds=40), 0).delay_seconds == 40
    endless = Ending(Reason.USER_FAILURE, "429", retry_after_seconds=1e18)
    assert decide(facts(), endless, 0).delay_seconds == 86_400, "a day at most"


@pytest.mark.parametrize(
    ("failures", "jitter", "delay"), [(1, 1, 1), (2, 1, 2), (3, 1, 4), (4, 1, 5), (900, 1, 5), (3, 0, 2)]
)
def test_backoff_grows_to_its_maximum(failures: int, jitter: float, delay: float) -> None:
    assert backoff_seconds(RETRY, failures, jitter) == delay


@pytest.mark.parametrize(
    ("failure", "evidence", "reason", "infra", "final"),
    [
        (Failure("user", "ValueError", "x"), Evidence(), Reason.USER_FAILURE, False, False),
        (Failure("user", "ValueError", "x", retryable=False), Evidence(), Reason.FATAL, False, True),
        (Failure("fatal", "FatalError", "x"), Evidence(), Reason.FATAL, False, True),
        (Failure("config", "ImportError", "x"), Evidence(), Reason.CONFIG, False, True),
        (Failure("oom", "OOM", "x"), Evidence(oom_kills=1), Reason.OOM, False, False),
        (Failure("oom", "OOM", "x"), Evidence(oom_kills=1, exit_code=1), Reason.CHILD_OOM, False, False),
        (Failure("user", "CalledProcessError", "x"), Evidence(oom_kills=1), Reason.CHILD_OOM, False, False),
        (Failure("fatal", "FatalError", "x"), Evidence(oom_kills=1), Reason.FATAL, False, True),
        (Failure("crash", "SIGKILL", "x"), Evidence(signal=9, oom_kills=1), Reason.OOM, False, False),
        (Failure("crash", "SIGKILL", "x"), Evidence(signal=9), Reason.CRASHED, True, False),
        (Failure("crash", "SIGSEGV", "x"), Evidence(signal=11), Reason.CRASHED, False, False),
        (None, Evidence(), Reason.LOST_RESULT, False, False),
    ],
)
def test_reports_are_classified(
    failure: Failure | None, evidence: Evidence, reason: Reason, infra: bool, final: bool
) -> None:
    ending = ending_of(SettleRequest(Fence("r", 1, 1), "failed", None, failure, evidence))
    counted = not infra and reason is not Reason.CONFIG
    assert (ending.reason, ending.infra, ending.final, ending.counted) == (reason, infra, final, counted)


MIB = 1024**2
RAISING = Retry(max_attempts=3, oom_factor=2.0, oom_max_bytes=1536 * MIB)
SHORT = Ending(Reason.OOM, "out of memory")


@pytest.mark.parametrize(
    ("given", "ending", "klass", "told"),
    [
        ({"memory_limit": 512 * MIB}, SHORT, 1024 * MIB, "out of memory; attempt 2 has 1Gi after an OOM at 512Mi"),
        ({"memory_limit": 512 * MIB}, Ending(Reason.CHILD_OOM, "x"), 1024 * MIB, "attempt 2 has 1Gi"),
        (
            {"memory_class": 1024 * MIB, "memory_limit": 1024 * MIB, "attempt": 2, "attempts_counted": 1},
            SHORT,
            1536 * MIB,
            "attempt 3 has 1536Mi after an OOM at 1Gi",
        ),
        (
            {"memory_class": 1536 * MIB, "memory_limit": 1536 * MIB},
            SHORT,
            1536 * MIB,
            "attempt 2 has 1536Mi again, the most it may have",
        ),
        ({"memory_limit": 512 * MIB, "retry": RETRY}, SHORT, 0, "attempt 2 has 512Mi again"),
        ({}, SHORT, 0, "out of memory"),
        ({"memory_class": 1024 * MIB}, LOST, 1024 * MIB, "gone"),
        ({"memory_class": 1024 * MIB}, FAILED, 1024 * MIB, "no"),
        ({"memory_limit": 512 * MIB, "attempts_counted": 2}, SHORT, 0, "out of memory"),
    ],
)
def test_memory_after_an_attempt(given: dict[str, object], ending: Ending, klass: int, told: str) -> None:
    """An OOM counts as any failure; the class grows up to its cap, and stays the run's."""
    following = decide(facts(**({"retry": RAISING} | given)), ending, 0.5)
    assert following.memory_class == klass
    assert told in following.message
    if ending is SHORT:
        assert following.attempts_counted == given.get("attempts_counted", 0) + 1  # type: ignore[operator]


def test_every_decision_is_a_transition_that_there_is() -> None:
    for state in (RunState.ADMITTED, RunState.RUNNING):
        for ending in (DONE, FAILED, LOST):
            for given in (facts(), facts(cancel_requested=True), facts(attempts_counted=2, infra_streak=5)):
                assert decide(given, ending, 0.1).state in TRANSITIONS[state]


def test_terminal_is_final() -> None:
    assert all(not TRANSITIONS[state] for state in TERMINAL)
    assert set(TRANSITIONS) == set(RunState)
