"""Each wait has one reason: facts in, code, sentence and next moment out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from milepost_operator.domain.states import TERMINAL, RunState
from milepost_operator.domain.why import (
    Facts,
    Pause,
    PodFacts,
    QueueFacts,
    RateUse,
    Usage,
    WaitOn,
    decide,
    span,
)

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(seconds=3)
QUEUE = QueueFacts("agents", limit=10, running=4)
FULL = replace(QUEUE, running=10)
BASE = Facts(NOW, RunState.QUEUED, "index", "agents", QUEUE, ready_at=LATER)


def facts(**changes: object) -> Facts:
    return replace(BASE, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("observed", "code", "sentence", "next_at"),
    [
        (facts(), "Queued", "next in `agents`, about to be admitted", None),
        (facts(bumped=True), "Queued", "bumped: next in `agents`, about to be admitted", None),
        (facts(ahead=41), "Queued", "behind 41 others in `agents` (limit 10, 4 running)", None),
        (facts(queue=FULL, ahead=41), "QueueFull", "behind 41 others in `agents` (limit 10, 10 running)", None),
        (facts(queue=FULL, ahead=1), "QueueFull", "behind 1 other in `agents` (limit 10, 10 running)", None),
        (facts(queue=FULL), "QueueFull", "next in `agents` (limit 10, 10 running)", None),
        (
            facts(queue=FULL, ahead=1001),
            "QueueFull",
            "behind more than 1,000 others in `agents` (limit 10, 10 running)",
            None,
        ),
        (
            facts(queue=replace(QUEUE, limit=None), ahead=2),
            "Queued",
            "behind 2 others in `agents` (no limit, 4 running)",
            None,
        ),
        (
            facts(ahead=2, concurrency_key="acme"),
            "Queued",
            "behind 2 others of key `acme` in `agents` (limit 10, 4 running)",
            None,
        ),
        (facts(key=Usage("", 2, 2)), "KeyLimit", "runs without a key at their limit 2 in `agents`", None),
        (facts(key=Usage("acme", 2, 2)), "KeyLimit", "key `acme` at its limit 2 in `agents`", None),
        (facts(key=Usage("acme", 2, 1), ahead=0), "Queued", "next in `agents`, about to be admitted", None),
        (facts(task_use=Usage("index", 3, 3)), "TaskLimit", "task `index` at its concurrency 3", None),
        (facts(semaphores=[Usage("gpu", 4, 4)]), "SemaphoreFull", "semaphore `gpu` full (4 of 4)", None),
        (
            facts(semaphores=[Usage("gpu", 4, 3, units=2)]),
            "SemaphoreFull",
            "semaphore `gpu` full (3 of 4, 2 wanted)",
            None,
        ),
        (facts(global_use=Usage("", 50, 50)), "GlobalLimit", "global limit 50, 50 running", None),
        (
            facts(rates=[RateUse(100, 60, LATER)]),
            "RateLimited",
            "rate 100/1m in `agents`, next token in 3 s",
            LATER,
        ),
        (
            facts(rates=[RateUse(5, 3600, LATER, key=True)], concurrency_key="acme"),
            "RateLimited",
            "rate 5/1h of key `acme` in `agents`, next token in 3 s",
            LATER,
        ),
        (facts(rates=[RateUse(100, 60, None)]), "Queued", "next in `agents`, about to be admitted", None),
        (facts(rates=[RateUse(100, 60, NOW)]), "Queued", "next in `agents`, about to be admitted", None),
        (
            facts(queue=replace(FULL, pause=Pause(NOW, "alice", "upgrade of the index")), ahead=3),
            "Paused",
            "queue `agents` paused by alice since 2026-05-01T12:00:00Z (upgrade of the index)",
            None,
        ),
        (
            facts(queue=replace(QUEUE, pause=Pause(NOW))),
            "Paused",
            "queue `agents` paused by its manifest since 2026-05-01T12:00:00Z",
            None,
        ),
        (
            facts(queue=replace(FULL, open_until=LATER)),
            "CircuitOpen",
            "circuit of `agents` open until 2026-05-01T12:00:03Z",
            LATER,
        ),
        (
            facts(queue=replace(QUEUE, probe_room=0, probing=2)),
            "CircuitHalfOpen",
            "circuit of `agents` half open: 2 probes at work",
            None,
        ),
        (facts(queue=None), "QueueNotFound", "no Queue `agents`: apply it, or change the Task's queue", None),
        (facts(state=RunState.DELAYED), "Delayed", "delayed until 2026-05-01T12:00:03Z", LATER),
        (
            facts(state=RunState.BACKOFF, counted=2, max_attempts=5, attempt=2, next_cause="retry", noted="TaskFailed"),
            "Backoff",
            "retry 2 of 4 at 2026-05-01T12:00:03Z, after TaskFailed",
            LATER,
        ),
        (
            facts(state=RunState.BACKOFF, attempt=2, next_cause="infra", noted="PodLost"),
            "Backoff",
            "attempt 3 at 2026-05-01T12:00:03Z, after PodLost",
            LATER,
        ),
        (
            facts(
                state=RunState.BACKOFF, attempt=2, next_cause="resume", noted="StepBackoff", message="step `a` failed"
            ),
            "StepBackoff",
            "step `a` failed, at 2026-05-01T12:00:03Z",
            LATER,
        ),
        (
            facts(state=RunState.HELD, noted="TaskNotFound", held_until=LATER),
            "TaskNotFound",
            "no Task `index`: apply it, or delete the run",
            LATER,
        ),
        (
            facts(state=RunState.HELD, noted="QueueNotFound", held_until=LATER),
            "QueueNotFound",
            "no Queue `agents`: apply it, or change the Task's queue",
            LATER,
        ),
        (
            facts(state=RunState.HELD, noted="CodeChanged", message="its code changed: decide"),
            "CodeChanged",
            "its code changed: decide",
            None,
        ),
        (
            facts(state=RunState.ADMITTED, pod=PodFacts("wanted", NOW - timedelta(seconds=7))),
            "PodPending",
            "admitted, waiting for a pod: its Job is not made yet, for 7 s",
            None,
        ),
        (
            facts(state=RunState.ADMITTED, noted="Unschedulable", message="0/3 nodes are available"),
            "Unschedulable",
            "admitted, waiting for a pod (Unschedulable: 0/3 nodes are available)",
            None,
        ),
        (
            facts(state=RunState.SUSPENDED, waits=[WaitOn("signal", "approve"), WaitOn("timer", "t", LATER)]),
            "Suspended",
            "suspended, waits for timer `t` until 2026-05-01T12:00:03Z and 1 more",
            LATER,
        ),
        (
            facts(state=RunState.SUSPENDED, waits=[WaitOn("signal", "approve")]),
            "Suspended",
            "suspended, waits for signal `approve`",
            None,
        ),
        (facts(state=RunState.SUSPENDED), "Suspended", "suspended, waits to be woken", None),
        (facts(state=RunState.RUNNING, attempt=2), "Running", "attempt 2 is at work", None),
        (
            facts(state=RunState.CANCELLING, cancel_deadline_at=LATER),
            "CancelRequested",
            "told to end; killed at 2026-05-01T12:00:03Z",
            LATER,
        ),
    ],
)
def test_the_reason(observed, code, sentence, next_at):
    why = decide(observed)
    assert why is not None
    assert (why.code, why.sentence, why.next_at) == (code, sentence, next_at)


@pytest.mark.parametrize("state", list(RunState))
def test_every_state_has_a_reason_until_its_end(state):
    assert (decide(facts(state=state)) is None) == (state in TERMINAL)


def test_of_several_the_narrowest_is_told():
    stuck = facts(
        queue=FULL,
        ahead=3,
        key=Usage("acme", 1, 1),
        task_use=Usage("index", 1, 1),
        global_use=Usage("", 1, 1),
        rates=[RateUse(1, 60, LATER)],
    )
    codes = []
    for lifted in ({}, {"key": None}, {"task_use": None}, {"queue": QUEUE}, {"global_use": None}, {"rates": []}):
        stuck = replace(stuck, **lifted)  # type: ignore[arg-type]
        why = decide(stuck)
        codes.append(why and why.code)
    assert codes == ["KeyLimit", "TaskLimit", "QueueFull", "GlobalLimit", "RateLimited", "Queued"]


def test_of_two_rates_the_later_one_is_told():
    late = LATER + timedelta(seconds=60)
    why = decide(facts(rates=[RateUse(1, 60, LATER), RateUse(2, 60, late)]))
    assert why is not None
    assert why.next_at == late


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.1, "1 s"), (3.0, "3 s"), (3.2, "4 s"), (119, "119 s"), (121, "3 min"), (7300, "3 h")]
)
def test_spans(seconds, text):
    assert span(seconds) == text
