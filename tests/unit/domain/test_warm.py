"""Which pods stay, and which go when there are too many."""

from dataclasses import replace

import pytest

from milepost_operator.domain.runs import Ending
from milepost_operator.domain.states import Reason
from milepost_operator.domain.warm import (
    ColdFacts,
    IdlePod,
    PodFacts,
    WarmPolicy,
    cold_reason,
    lapsed,
    least_used,
    policy_of,
    retires,
    surplus,
)

POLICY = WarmPolicy(60, 2)
POD = PodFacts(asks=True, runs=1, age_seconds=10.0, current=True, keeps=None)
DONE = Ending(Reason.SUCCEEDED, "", counted=False)


def idle(pod_id: str, task: str = "a", since: float = 1.0, **changes: object) -> IdlePod:
    pod = IdlePod(pod_id, ("team", task), POLICY, 1, since, 100.0, current=True)
    return replace(pod, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policy", "pod", "ending", "why"),
    [
        ({}, {}, DONE, None),
        ({}, {}, Ending(Reason.USER_FAILURE, "no"), None),
        ({}, {}, Ending(Reason.SUSPENDED, "sleeps"), None),
        ({}, {}, Ending(Reason.OOM, "out of memory"), "oom"),
        ({}, {}, Ending(Reason.USER_FAILURE, "no", evidence={"oom_kills": 1}), "oom"),
        ({}, {}, Ending(Reason.CRASHED, "SIGSEGV"), "crash"),
        ({}, {}, Ending(Reason.LOST_RESULT, "no result"), "crash"),
        ({}, {}, Ending(Reason.CONFIG, "no module"), "crash"),
        ({}, {"asks": False}, DONE, "off"),
        ({"seconds": 0}, {}, DONE, "off"),
        ({"max": 0}, {}, DONE, "off"),
        ({"reuse": "never"}, {}, DONE, "off"),
        ({}, {"keeps": "volumes"}, DONE, "off"),
        ({"written": True}, {"keeps": "volumes"}, DONE, None),
        ({"written": True}, {"keeps": "command"}, DONE, "off"),
        ({}, {"current": False}, DONE, "version"),
        ({"max_runs": 3}, {"runs": 2}, DONE, None),
        ({"max_runs": 3}, {"runs": 3}, DONE, "runs"),
        ({}, {"age_seconds": 3600.0}, DONE, "age"),
    ],
)
def test_a_pod_stays_unless_something_speaks_against_it(policy, pod, ending, why):
    assert retires(replace(POLICY, **policy), replace(POD, **pod), ending) == why


def test_a_task_says_what_it_wants_and_the_installation_the_rest():
    told = {"seconds": 5, "reuse": "key", "max_runs": 7, "max_age_seconds": 9}
    assert policy_of(told, seconds=60, most=5, total=50) == WarmPolicy(5, 5, "key", 7, 9, written=True)
    assert policy_of({}, seconds=60, most=5, total=50) == WarmPolicy(60, 5)
    assert policy_of({"seconds": 5}, seconds=60, most=5, total=0).off


def test_pods_wait_for_their_time():
    pods = [
        idle("new"),
        idle("late", since=60.0),
        idle("old", current=False),
        idle("strange", template=False),
        idle("aged", age_seconds=3600.0),
        idle("off", policy=replace(POLICY, seconds=0)),
    ]
    expected = {"late": "idle", "old": "version", "strange": "template", "aged": "age", "off": "off"}
    assert lapsed(pods) == expected


def test_one_that_is_not_there_yet_is_waited_for_unless_something_is_in_its_way():
    held_up = idle("held-up", since=0.0, there=False, troubled=True)
    pods = [held_up, idle("coming", since=0.0, there=False), idle("back", troubled=True)]
    assert lapsed(pods) == {"held-up": "trouble"}
    assert lapsed([replace(pod, spare=3) for pod in pods]) == {}, "its Task should have it"
    assert lapsed([replace(held_up, current=False)]) == {"held-up": "version"}


def test_pods_that_are_not_there_yet_go_before_those_that_are():
    pods = [idle("coming", since=0.0, there=False), idle("old", since=9.0), idle("new")]
    assert surplus(pods, 50) == ["coming"]
    assert least_used(pods[:2], 1) == ["coming"]


def test_of_each_task_those_that_waited_longest_go_first():
    assert surplus([idle("x", since=3.0), idle("y", since=9.0), idle("z", since=1.0)], 50) == ["y"]
    assert surplus([idle("x"), idle("y", "b")], 50) == []


def test_in_all_the_task_that_was_used_least_lately_gives_up_its_pod():
    pods = [idle("x", "a", 2.0), idle("y", "b", 30.0), idle("z", "b", 40.0)]
    assert surplus(pods, 2) == ["z"]
    assert surplus(pods, 1) == ["z", "y"]
    assert sorted(surplus(pods, 0)) == ["x", "y", "z"]


def test_a_task_that_runs_often_keeps_its_pod_longer():
    seldom, often = idle("x", "a", 20.0, runs=1), idle("y", "b", 30.0, runs=15)
    assert surplus([seldom, often], 1) == ["x"]
    assert surplus([seldom, replace(often, idle_seconds=59.0)], 1) == ["y"]


def test_room_is_made_by_the_pod_that_is_needed_least():
    assert least_used([idle("x", "a", 2.0), idle("y", "b", 30.0)], 1) == ["y"]
    assert least_used([], 1) == []


NOTHING = ColdFacts(
    late=False,
    other_key=False,
    same=False,
    other_memory=False,
    other_template=False,
    other_version=False,
    keeps=None,
)


@pytest.mark.parametrize(
    ("policy", "facts", "why"),
    [
        ({}, {}, "first"),
        ({}, {"other_version": True}, "version"),
        ({}, {"other_version": True, "other_template": True}, "template"),
        ({}, {"other_memory": True, "other_template": True}, "memory"),
        ({}, {"other_template": True, "same": True}, "busy"),
        ({}, {"same": True, "other_key": True}, "busy"),
        ({"reuse": "key"}, {"same": True, "other_key": True}, "key"),
        ({"reuse": "key"}, {"other_key": True, "late": True}, "late"),
        ({}, {"late": True, "keeps": "volumes"}, "off"),
        ({"written": True}, {"keeps": "volumes"}, "first"),
        ({"written": True}, {"keeps": "command"}, "off"),
        ({"seconds": 0}, {"same": True}, "off"),
        ({"max": 0}, {}, "off"),
        ({"reuse": "never"}, {}, "off"),
    ],
)
def test_a_cold_start_has_its_nearest_reason(policy: dict, facts: dict, why: str) -> None:
    assert cold_reason(replace(POLICY, **policy), replace(NOTHING, **facts)) == why


def test_what_a_task_should_keep_outlasts_its_time_but_not_its_use():
    pods = [idle("new", since=70.0, spare=1), idle("old", since=90.0, spare=1)]
    assert lapsed(pods) == {"old": "idle"}, "the one that was used last is kept"
    assert lapsed([replace(pod, current=False) for pod in pods]) == {"new": "version", "old": "version"}
    stale = idle("stale", since=1.0, current=False, spare=1)
    assert lapsed([*pods, stale]) == {"old": "idle", "stale": "version"}, "one of another version is none of them"


def test_what_a_task_should_keep_gives_way_last():
    promised = [idle("p1", "promised", since=500.0, spare=2), idle("p2", "promised", since=600.0, spare=2)]
    busy_task = [idle("b1", "busy", since=1.0), idle("b2", "busy", since=2.0)]
    assert surplus([*promised, *busy_task], 3) == ["b2"]
    assert surplus([*promised, *busy_task], 1) == ["b2", "b1", "p2"]
    assert least_used([*promised, *busy_task], 3) == ["b2", "b1", "p2"]
