"""Rows whose pods do not come."""

from datetime import UTC, datetime, timedelta

import pytest

from milepost_operator.domain.states import Reason
from milepost_operator.manifests.job import TASK_CONTAINER
from milepost_operator.reconcile.pods import Pods
from milepost_operator.reconcile.room import Room
from milepost_operator.reconcile.sweep import PodSweep
from tests.fakes.kube import FakeCluster
from tests.unit.operator.store import FakeStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CREATING = {
    "phase": "Pending",
    "containerStatuses": [{"name": TASK_CONTAINER, "state": {"waiting": {"reason": "ContainerCreating"}}}],
}


def at(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def world() -> tuple[FakeStore, FakeCluster, PodSweep, str]:
    """A pod whose containers are not created, and the uid that Events name."""
    store, cluster = FakeStore(), FakeCluster()
    room = Room(store, 3, lambda: 0.0)  # type: ignore[arg-type]
    pods = Pods(store, cluster, cluster, 3, clock=lambda: NOW, config_grace_seconds=60, room=room)  # type: ignore[arg-type]
    sweep = PodSweep(
        store,  # type: ignore[arg-type]
        cluster,
        cluster,
        pods,
        3,
        clock=lambda: NOW,
        room=room,
        config_grace_seconds=60,
    )
    row = store.row(age=300.0)
    cluster.put("jobs", {"metadata": {"name": f"mp-{row.pod_id}"}})
    pod = cluster.put_pod(row.pod_id, CREATING)
    return store, cluster, sweep, pod["metadata"]["uid"]


def event(uid: str, message: str, **times: object) -> dict[str, object]:
    return {"involvedObject": {"uid": uid}, "reason": "FailedMount", "message": message, **times}


@pytest.mark.parametrize(
    ("times", "ends"),
    [
        ({"lastTimestamp": at(5)}, True),
        ({"lastTimestamp": at(200)}, False),  # since then it may be pulling its image
        ({"eventTime": at(200), "series": {"lastObservedTime": at(5)}}, True),
        ({"eventTime": at(200)}, False),
        ({}, False),
    ],
)
async def test_a_pod_is_hopeless_only_by_what_was_told_of_late(times: dict[str, object], *, ends: bool) -> None:
    store, cluster, sweep, uid = world()
    cluster.put("events", event(uid, 'secret "s" not found', **times))
    await sweep.turn()
    assert [ending.reason for _, ending in store.of("ended")] == [Reason.CONFIG] * ends
    assert store.of("note") == []


async def test_the_newest_trouble_is_told() -> None:
    store, cluster, sweep, uid = world()
    cluster.put("events", event(uid, 'secret "s" not found', lastTimestamp=at(50)))
    cluster.put("events", event(uid, "timed out", lastTimestamp=at(5)))
    await sweep.turn()
    assert store.of("note") == [("ConfigError", "timed out")]


async def test_a_pod_that_began_while_it_was_asked_about_goes_on() -> None:
    store, cluster, sweep, uid = world()
    store.is_heard = True
    cluster.put("events", event(uid, 'secret "s" not found', lastTimestamp=at(5)))
    await sweep.turn()
    assert store.of("ended") == []
    assert cluster.jobs()
