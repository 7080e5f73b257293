"""Decisions about open pods rows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from milepost_operator.domain.runs import OpenPod
from milepost_operator.domain.states import Reason
from milepost_operator.manifests.job import SIDECAR_CONTAINER, TASK_CONTAINER
from milepost_operator.reconcile.pods import (
    Confirm,
    Delete,
    End,
    Lost,
    Note,
    Pods,
    Retire,
    Sight,
    decide,
    doubted,
    nodes_in_doubt,
)
from milepost_operator.reconcile.room import Room
from tests.fakes.kube import FakeCluster
from tests.unit.operator.store import RUN_ID, FakeStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def running(seconds: float) -> dict[str, object]:
    since = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    state = {"running": {"startedAt": since}}
    return {
        "metadata": {"name": "mp-a-x", "uid": "u"},
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": TASK_CONTAINER, "state": state}],
            "initContainerStatuses": [{"name": SIDECAR_CONTAINER, "state": state}],
        },
    }


@pytest.mark.parametrize(
    ("state", "unheard", "runs", "ends"),
    [
        ("created", 300, 300, True),
        ("created", 300, 20, False),  # it waited for its node or image until a moment ago
        ("created", 20, 300, False),  # the api was down until a moment ago
        ("bound", 0, 300, False),
    ],
)
def test_a_sidecar_that_is_not_heard_of_frees_its_slot(state: str, unheard: float, runs: float, ends: bool) -> None:
    row = OpenPod("a", "team", state, "job", None, RUN_ID, 1, 300.0, 0, unheard)
    job = {"metadata": {"name": "mp-a", "uid": "job"}}
    actions = decide(row, Sight(job, [running(runs)], fresh=True), NOW, 60.0)
    assert [type(a) for a in actions] == ([End, Delete] if ends else [])
    if ends:
        end = actions[0]
        assert isinstance(end, End)
        assert (end.ending.reason, end.ending.infra) == (Reason.SIDECAR_LOST, True)


def test_nothing_is_concluded_of_a_living_pod_from_the_watches_alone() -> None:
    """They may be minutes behind: it may have pulled its image since."""
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    pod = running(300) | {"metadata": {"name": "mp-a-x", "uid": "u", "creationTimestamp": "2025-12-31T00:00:00Z"}}
    pod["status"] = {"phase": "Pending", "containerStatuses": [{"name": TASK_CONTAINER, "state": waiting}]}
    row = OpenPod("a", "team", "bound", "job", "u", None, 1, 300.0, 0)
    job = {"metadata": {"name": "mp-a", "uid": "job"}}
    assert [type(a) for a in decide(row, Sight(job, [pod]), NOW, 60.0)] == [Confirm]
    assert [type(a) for a in decide(row, Sight(job, [pod], fresh=True), NOW, 60.0)] == [End, Delete]


@pytest.mark.parametrize("state", ["resting", "idle", "offered"])
def test_a_warm_pod_that_goes_ends_no_attempt(state: str) -> None:
    job = {"metadata": {"name": "mp-a", "uid": "job"}}
    row = OpenPod("a", "team", state, "job", "u", None, None, 300.0, 0)
    alive = running(300)
    assert decide(row, Sight(job, [alive]), NOW, 60.0) == []
    assert [type(a) for a in decide(row, Sight(job, []), NOW, 60.0)] == [Confirm]
    assert decide(row, Sight(job, [], fresh=True), NOW, 60.0) == [Retire("vanished")]
    going = alive | {"metadata": {"name": "mp-a-x", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert decide(row, Sight(job, [going]), NOW, 60.0) == [Retire("deleted")]
    over = alive | {"status": {"phase": "Failed"}}
    assert decide(row, Sight(job, [over]), NOW, 60.0) == [Retire("ended")]


def test_how_a_pod_was_as_it_went_tells_why() -> None:
    job = {"metadata": {"name": "mp-a", "uid": "job"}}
    row = OpenPod("a", "team", "bound", "job", "u", RUN_ID, 1, 300.0, 0)
    evicted = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drain"}
    gone = running(300)
    gone["status"] = {"phase": "Running", "conditions": [evicted]}
    (end, _) = decide(row, Sight(job, [], fresh=True, gone=[gone]), NOW, 60.0)
    assert isinstance(end, End)
    assert (end.ending.reason, end.ending.message) == (Reason.DRAINED, "drain")
    other = gone | {"metadata": {"name": "mp-a-y", "uid": "another"}}
    for told_nothing in ([other], [running(300)]):
        (end, _) = decide(row, Sight(job, [], fresh=True, gone=told_nothing), NOW, 60.0)
        assert isinstance(end, End)
        assert end.ending.reason == Reason.POD_LOST


def going(due: str) -> dict[str, object]:
    """A pod that runs and has to go."""
    return running(300) | {"metadata": {"name": "mp-a-x", "uid": "u", "deletionTimestamp": due}}


LAPSED = OpenPod("a", "team", "closing", "job", "u", RUN_ID, 1, 5.0, 10, ended_as=Reason.LEASE_EXPIRED)
DELETED = {"metadata": {"name": "mp-a", "uid": "job", "deletionTimestamp": "2025-12-31T23:59:00Z"}}
LATE, SOON = "2025-12-31T23:59:30Z", "2025-12-31T23:59:50Z"


def test_a_pod_that_has_to_go_and_does_not_was_on_a_lost_node() -> None:
    def told(pod: dict[str, object], row: OpenPod = LAPSED, *, fresh: bool = True) -> list[str]:
        actions = decide(row, Sight(DELETED, [pod], fresh=fresh), NOW, 60.0)
        return [one.ending.message if isinstance(one, Lost) else type(one).__name__ for one in actions]

    assert told(going(LATE)) == ["the node does not confirm that the pod ended"]
    assert told(going(LATE), fresh=False) == ["Confirm"], "the watches may be behind"
    assert told(going(SOON)) == [], "it may be on its way"
    assert told(running(300)) == []
    assert told(going(LATE), replace(LAPSED, ended_as=Reason.USER_FAILURE)) == [], "its cause is known"
    ended = going(LATE)
    ended["status"] = {"phase": "Failed"}
    assert told(ended) == ["Close"]
    ended["status"] = {"phase": "Failed", "conditions": [TAINTED]}
    assert told(ended) == ["tainted", "Close"]


TAINTED = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "tainted"}


def test_the_loss_of_a_node_is_known_from_a_pod_that_went() -> None:
    """Where the Node object goes, the collector marks its pods and deletes them at once."""
    gone = going(LATE) | {"status": {"phase": "Failed", "conditions": [TAINTED | {"reason": "DeletionByPodGC"}]}}
    (lost, close) = decide(LAPSED, Sight(None, [], fresh=True, gone=[gone]), NOW, 60.0)
    assert isinstance(lost, Lost)
    assert (lost.ending.reason, lost.ending.evidence["disruption"]) == (Reason.NODE_LOST, "DeletionByPodGC")
    assert type(close).__name__ == "Close"
    (close,) = decide(LAPSED, Sight(None, [], fresh=True, gone=[going(LATE)]), NOW, 60.0)
    assert type(close).__name__ == "Close", "it went, whenever that was"


def test_a_node_is_in_doubt_as_long_as_a_silent_pod_of_it_is_not_seen_to_end() -> None:
    assert doubted(LAPSED)
    assert doubted(replace(LAPSED, ended_as=Reason.NODE_LOST))
    assert not doubted(replace(LAPSED, ended_as=Reason.DRAINED))
    assert not doubted(replace(LAPSED, state="bound"))
    there, other = (running(300) | {"spec": {"nodeName": name}} for name in ("node1", "node2"))
    assert nodes_in_doubt([there, there, other | {"status": {"phase": "Failed"}}, running(300)]) == ["node1"]


async def test_the_loss_of_a_node_is_told() -> None:
    store, cluster = FakeStore(), FakeCluster()
    pods = Pods(
        store, cluster, cluster, 3, clock=lambda: NOW, config_grace_seconds=60, room=Room(store, 3, lambda: 0.0)
    )  # type: ignore[arg-type]
    cluster.put("jobs", {"metadata": {"name": "mp-a"}})
    pod = cluster.put_pod("a", {"phase": "Running"}, name="mp-a-x", deletionTimestamp=LATE)
    await pods.settle(replace(LAPSED, pod_uid=pod["metadata"]["uid"]), Sight(None, cluster.pods()))
    assert [(deed, pod) for deed, pod, _ in store.told] == [("node lost", "a")]


def test_a_pod_without_a_run_is_looked_after_as_any_other() -> None:
    job = {"metadata": {"name": "mp-a", "uid": "job"}}
    row = OpenPod("a", "team", "created", "job", None, None, None, 300.0, 0)
    alive = running(300)
    assert decide(row, Sight(job, [alive]), NOW, 60.0) == []
    nowhere = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient cpu"}
    status = {"status": {"phase": "Pending", "conditions": [nowhere]}}
    assert [type(a) for a in decide(row, Sight(job, [alive | status]), NOW, 60.0)] == [Note]
    assert [type(a) for a in decide(row, Sight(None, [], fresh=True), NOW, 60.0)] == [End]
    unheard = decide(replace(row, unheard_seconds=300), Sight(job, [alive], fresh=True), NOW, 60.0)
    assert [type(a) for a in unheard] == [End, Delete]


async def test_a_pod_that_finds_no_node_gets_the_room_of_one_that_waits() -> None:
    store, cluster, now = FakeStore(), FakeCluster(), [0.0]
    room = Room(store, 3, lambda: now[0])  # type: ignore[arg-type]
    pods = Pods(store, cluster, cluster, 3, clock=lambda: NOW, config_grace_seconds=60, room=room)  # type: ignore[arg-type]
    row = store.row()
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "1 Insufficient cpu"}
    pod = {"metadata": {"name": "p", "uid": "u"}, "status": {"phase": "Pending", "conditions": [scheduled]}}
    sight = Sight({"metadata": {"name": "j", "uid": "j"}}, [pod])
    for now[0] in (0.0, 1.0, 1.9, 2.1):
        await pods.settle(row, sight)
    assert store.of("room") == [(None,), (None,)]
    assert len(store.of("note")) == 1


@pytest.mark.parametrize("heard", [False, True])
async def test_a_pod_that_is_heard_of_at_last_goes_on(*, heard: bool) -> None:
    store, cluster = FakeStore(), FakeCluster()
    store.is_heard = heard
    pods = Pods(
        store, cluster, cluster, 3, clock=lambda: NOW, config_grace_seconds=60, room=Room(store, 3, lambda: 0.0)
    )  # type: ignore[arg-type]
    row = replace(store.row(age=300.0), unheard_seconds=300.0)
    cluster.put("jobs", {"metadata": {"name": f"mp-{row.pod_id}"}})
    cluster.put_pod(row.pod_id, running(300)["status"])  # type: ignore[arg-type]
    await pods.settle(row, Sight(None, cluster.pods()))
    assert len(store.of("ended")) == (not heard)
    assert bool(cluster.jobs()) == heard, "its Job goes only with it"


@pytest.mark.parametrize("state", ["created", "bound"])
def test_a_pod_that_is_over_ends_whatever_was_heard_of_it(state: str) -> None:
    row = OpenPod("a", "team", state, "job", None, RUN_ID, 1, 300.0, 0)
    job = {"metadata": {"name": "mp-a", "uid": "job"}}
    over = running(300) | {"status": {"phase": "Failed", "reason": "Evicted"}}
    for sight in (Sight(job, [over], fresh=True), Sight(None, [], fresh=True)):
        end = decide(row, sight, NOW, 60.0)[0]
        assert isinstance(end, End)
        assert not end.unheard
