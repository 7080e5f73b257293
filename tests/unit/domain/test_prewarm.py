"""How many pods are made before runs come: tables of what is known, and what follows."""

from dataclasses import replace

import pytest

from milepost_operator.domain.prewarm import Plan, Pool, backoff, lead, plan
from milepost_operator.domain.warm import WarmPolicy, policy_of

TASK = ("team", "index")


def pool(**facts: object) -> Pool:
    """A Task that asks for prediction; `min`, `max`, `predict`, `reuse` and `seconds` are of its policy."""
    told = {key: facts.pop(key) for key in ("min", "max", "predict", "reuse", "seconds") if key in facts}
    policy = replace(WarmPolicy(seconds=60, max=5, predict=True), **told)  # type: ignore[arg-type]
    return Pool(**({"task": TASK, "policy": policy} | facts))  # type: ignore[arg-type]


def one(total: int = 50, yielded_ago: float | None = None, **facts: object) -> Plan:
    (made,) = plan([pool(**facts)], total, yielded_ago)
    return made


STEADY = {"recent": 60, "longer": 600, "silence": 1.0, "run_seconds": 2.0}
"""A run a second, each of two seconds: two are at work at a time."""

RARE = {"recent": 1, "longer": 5, "silence": 30.0, "run_seconds": 1.0}

TARGETS: list[tuple[str, dict[str, object], tuple[int, int, object]]] = [
    ("nothing is known", {}, (0, 0, None)),
    ("a minimum", {"min": 2}, (2, 2, "min")),
    ("steady arrivals", STEADY, (4, 5, "arrivals")),
    ("a minimum above them", STEADY | {"min": 9, "max": 9}, (9, 9, "min")),
    ("a minimum below them", STEADY | {"min": 1}, (4, 5, "arrivals")),
    ("no prediction", STEADY | {"predict": False}, (0, 0, None)),
    ("no prediction, a minimum", STEADY | {"predict": False, "min": 1}, (1, 1, "min")),
    ("bursts count as the last minute had them", STEADY | {"recent": 300}, (14, 17, "arrivals")),
    ("rare runs: a pod would wait in vain", RARE | {"seconds": 30}, (0, 0, None)),
    ("the same, and pods that wait for long", RARE | {"seconds": 600}, (1, 1, "arrivals")),
    ("two runs foretell nothing", {"recent": 2, "longer": 2, "silence": 1.0, "run_seconds": 9.0}, (0, 0, None)),
    ("a burst that is over", {"recent": 50, "longer": 100, "silence": 19.0, "run_seconds": 9.0}, (0, 0, None)),
    ("runs of no length", STEADY | {"run_seconds": 0.0}, (1, 1, "arrivals")),
    ("a limit of what runs at once", STEADY | {"most": 3}, (3, 3, "arrivals")),
    ("a limit below the minimum", {"min": 4, "most": 1}, (1, 1, "min")),
    ("a slot that comes", {"slots": [20.0, 500.0]}, (1, 1, "schedule")),
    ("two schedules", {"slots": [20.0, 21.0]}, (2, 2, "schedule")),
    ("a slot beside runs at work", {"slots": [20.0], "busy": 2}, (3, 3, "schedule")),
    ("a slot that is too far", {"slots": [31.0]}, (0, 0, None)),
    ("a slot that is too far for quick pods", {"slots": [20.0], "cold_seconds": 1.0}, (0, 0, None)),
    ("a slot and no prediction", {"slots": [3.0], "predict": False}, (0, 0, None)),
    ("a paused queue", STEADY | {"min": 2, "paused": True}, (0, 0, None)),
    ("nothing may wait", STEADY | {"min": 2, "seconds": 0}, (0, 0, None)),
    ("pods for one run each", STEADY | {"min": 2, "reuse": "never"}, (0, 0, None)),
    ("pods for one key each", STEADY | {"min": 2, "reuse": "key"}, (0, 0, None)),
    ("a command", STEADY | {"min": 2, "keeps": "command"}, (0, 0, None)),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "expected"), [row[1:] for row in TARGETS], ids=[row[0] for row in TARGETS])
def test_what_a_task_should_have(facts: dict[str, object], expected: tuple[int, int, object]) -> None:
    made = one(**facts)
    assert (made.target, made.keep, made.cause) == expected


MADE: list[tuple[str, dict[str, object], tuple[int, object]]] = [
    ("all of the minimum", {"min": 3}, (3, None)),
    ("what lacks of it", {"min": 3, "idle": 1, "busy": 1}, (1, None)),
    ("those on their way count", {"min": 3, "coming": 3}, (0, None)),
    ("those at work count", {"min": 3, "busy": 4}, (0, None)),
    ("no more than may wait", STEADY | {"recent": 300}, (5, None)),
    ("no more than may wait, with those that do", STEADY | {"recent": 300, "idle": 2, "coming": 1, "busy": 4},
     (2, None)),
    ("no more than may wait in all", {"min": 3, "total": 2}, (2, "Total")),
    ("nobody may wait any more", {"min": 3, "idle": 2, "total": 2}, (0, "Total")),
    ("pods had to give way", {"min": 3, "yielded_ago": 5.0}, (0, "Room")),
    ("pods had to give way a while ago", {"min": 3, "yielded_ago": 61.0}, (3, None)),
    ("one did not start", {"min": 3, "failures": 1, "failed_ago": 9.0, "trouble": "no image"}, (0, "Trouble")),
    ("one did not start, a try", {"min": 3, "failures": 1, "failed_ago": 11.0, "trouble": "no image"}, (1, "Trouble")),
    ("a try is under way", {"min": 3, "failures": 3, "failed_ago": 99.0, "coming": 1, "trouble": "x"}, (0, "Trouble")),
    ("it waits for its image", {"min": 1, "coming": 1, "trouble": "no image"}, (0, "Trouble")),
    ("paused", {"min": 1, "paused": True}, (0, "Paused")),
    ("paused, nothing said", STEADY | {"paused": True}, (0, None)),
    ("off", {"min": 1, "reuse": "never"}, (0, "Off")),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "expected"), [row[1:] for row in MADE], ids=[row[0] for row in MADE])
def test_what_is_made_now(facts: dict[str, object], expected: tuple[int, object]) -> None:
    made = one(**facts)  # type: ignore[arg-type]
    assert (made.make, made.held_back) == expected
    assert bool(made.message) == (made.held_back is not None)


def test_who_says_what_it_wants_comes_first() -> None:
    """Where few may wait in all: minimums, then slots, then what is foretold, each by name."""
    pools = [
        replace(pool(**STEADY), task=("a", "arrivals")),
        replace(pool(slots=[1.0]), task=("b", "slot")),
        replace(pool(min=2), task=("c", "min")),
    ]
    assert {p.task[1]: p.make for p in plan(pools, 4)} == {"min": 2, "slot": 1, "arrivals": 1}
    assert {p.task[1]: p.make for p in plan(pools, 2)} == {"min": 2, "slot": 0, "arrivals": 0}


def test_pods_that_nobody_is_promised_are_no_obstacle() -> None:
    """They give way when what is made now is there."""
    idler = replace(pool(idle=10), task=("a", "idler"))
    assert [p.make for p in plan([idler, pool(min=2)], 10)] == [0, 2]
    promised = replace(pool(idle=10, min=10, max=10), task=("a", "promised"))
    assert [p.make for p in plan([promised, pool(min=2)], 10)] == [0, 0]


def test_what_was_made_is_enough_however_often_it_is_decided() -> None:
    """The next decision counts what the one before made: nothing is made twice, and nothing flaps."""
    now = pool(min=2, **STEADY)
    for _ in range(5):
        (made,) = plan([now], 50)
        now = replace(now, coming=now.coming + made.make)
    assert now.coming == 4
    (later,) = plan([replace(now, coming=0, idle=4, recent=40, longer=500)], 50)
    assert (later.make, later.keep >= 4) == (0, True), "fewer runs than a moment ago end none of them"


def test_lead_and_backoff() -> None:
    assert [lead(seconds) for seconds in (None, 0.5, 10.0, 1000.0)] == [30.0, 5.0, 15.0, 150.0]
    assert [backoff(n) for n in (0, 1, 2, 3, 20)] == [0.0, 10.0, 20.0, 40.0, 600.0]


def test_a_minimum_raises_what_may_wait_unless_that_is_said() -> None:
    def policy(**told: object) -> tuple[int, int]:
        made = policy_of(told, seconds=60, most=5, total=50)
        return made.min, made.max

    assert policy() == (0, 5)
    assert policy(min=8) == (8, 8)
    assert policy(min=2) == (2, 5)
    assert policy(min=2, max=3) == (2, 3)
    assert policy_of({}, seconds=60, most=5, total=50, least=7).max == 7
    assert policy_of({"predict": True}, seconds=60, most=5, total=50, predict=False).predict
    assert not policy_of({"predict": False}, seconds=60, most=5, total=50, predict=True).predict
    assert not policy_of({}, seconds=60, most=5, total=50).predict
