from dataclasses import replace
from datetime import UTC, datetime

import pytest

from milepost_operator.domain.errors import DeposedError, ForbiddenError, InvalidInputError, UnavailableError
from milepost_operator.domain.runs import OpenPod, PodOrder
from milepost_operator.domain.states import Reason
from milepost_operator.manifests.job import PodSettings
from milepost_operator.manifests.network import NetworkSettings
from milepost_operator.ports.network import TaskNetwork
from milepost_operator.reconcile.launch import Launcher
from milepost_operator.reconcile.loop import each
from milepost_operator.reconcile.network import TaskNetworks
from milepost_operator.reconcile.pods import Pods
from milepost_operator.reconcile.room import Room
from tests.fakes.kube import FakeCluster
from tests.unit.operator.store import FakeStore

ID = "abcdefgh01234567"
JOB = f"mp-{ID}"
ORDER = PodOrder(ID, "team", "t", 1, "", {"image": "a", "entrypoint": "m:f"}, None)
SETTINGS = PodSettings("runner", "sidecar", "https://api")
NETWORK = NetworkSettings("system", {"component": "api"}, 8443)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def world():
    store, cluster, clock = FakeStore(), FakeCluster(), Clock()
    room = Room(store, 3, clock)
    pods = Pods(store, cluster, cluster, 3, clock=lambda: datetime.now(UTC), config_grace_seconds=60, room=room)
    networks = TaskNetworks(store, cluster, NETWORK, ())
    launcher = Launcher(
        store, cluster, pods, SETTINGS, 3, room=room, networks=networks, config_grace_seconds=60, clock=clock
    )
    store.wanted = [ORDER]
    store.networks = [TaskNetwork("team", "t", None)]
    store.rows[ID] = OpenPod(ID, "team", "creating", None, None, None, None, 0.0, 0)
    return store, cluster, launcher, clock


async def test_a_wanted_pod_becomes_a_job(world):
    store, cluster, launcher, _ = world
    await launcher.turn()
    (job,) = cluster.of("jobs")
    assert store.of("launched") == [(ID, job["metadata"]["uid"])]


async def test_the_network_of_a_pod_is_there_before_it(world):
    _, cluster, launcher, _ = world
    await launcher.turn()
    deeds = [call for call in cluster.calls if call[0].startswith("create_")]
    assert deeds == [
        ("create_policy", "milepost-tasks"),
        ("create_policy", "milepost-tasks-open"),
        ("create_job", JOB),
    ]


async def test_without_its_network_a_pod_waits_and_says_why(world):
    store, cluster, launcher, clock = world
    cluster.fail["create_policy"] = [ForbiddenError("networkpolicies is forbidden") for _ in range(9)]
    await launcher.turn()
    assert cluster.of("jobs") == []
    assert store.of("note") == [(Reason.POD_REFUSED.value, "networkpolicies is forbidden")]
    cluster.fail.clear()
    clock.now += 2
    await launcher.turn()
    assert len(cluster.of("jobs")) == 1


async def test_a_pod_that_nobody_waits_for_is_not_tried_again_nor_given_room(world):
    store, cluster, launcher, _ = world
    store.wanted, store.has_room = [replace(ORDER, ahead=True)], True
    cluster.fail["create_job"] = [ForbiddenError("exceeded quota: pods")]
    await launcher.turn()
    ((_, ending),) = store.of("ended")
    assert (ending.reason, ending.infra, "exceeded quota" in ending.message) == (Reason.POD_REFUSED, False, True)
    assert store.of("note") == []
    await launcher.turn()
    assert len([call for call in cluster.calls if call[0] == "create_job"]) == 1


async def test_a_job_that_is_there_is_adopted(world):
    store, cluster, launcher, _ = world
    job = cluster.put("jobs", {"metadata": {"name": JOB, "labels": {"milepost.dev/pod": ID}}})
    await launcher.turn()
    assert store.of("launched") == [(ID, job["metadata"]["uid"])]


async def test_a_foreign_job_of_that_name_is_not_adopted(world):
    store, cluster, launcher, _ = world
    cluster.put("jobs", {"metadata": {"name": JOB}})
    await launcher.turn()
    assert store.of("ended")[0][1].reason is Reason.POD_REFUSED


async def test_a_job_whose_row_closed_meanwhile_is_deleted(world):
    store, cluster, launcher, _ = world
    store.is_launched = False
    await launcher.turn()
    assert cluster.of("jobs") == []


async def test_no_answer_is_tried_again(world):
    store, cluster, launcher, _ = world
    cluster.fail["create_job"] = [UnavailableError("no answer")]
    await launcher.turn()
    assert store.told == []
    await launcher.turn()
    assert store.of("launched")


async def test_a_quota_is_told_once_and_waited_for(world):
    store, cluster, launcher, clock = world
    cluster.fail["create_job"] = [ForbiddenError("exceeded quota: jobs") for _ in range(50)]
    for _ in range(40):
        await launcher.turn()
        clock.now += 20
    assert len(store.of("note")) == 1
    assert store.of("note")[0][0] == "PodCreationRefused"
    assert not store.of("ended")


async def test_idle_pods_of_the_namespace_make_room_in_a_quota_one_at_a_time(world):
    store, cluster, launcher, clock = world
    store.has_room = True
    cluster.fail["create_job"] = [ForbiddenError("exceeded quota: pods") for _ in range(3)]
    for _ in range(10):
        await launcher.turn()
        clock.now += 0.5
    assert store.of("room") == [("team",), ("team",)]
    assert store.of("launched")


async def test_a_refusal_is_final_after_its_grace(world):
    store, cluster, launcher, clock = world
    cluster.fail["create_job"] = [ForbiddenError("a policy says no") for _ in range(50)]
    for _ in range(8):
        await launcher.turn()
        clock.now += 20
    assert store.of("ended")[0][1].final
    assert "a policy says no" in store.of("ended")[0][1].message


async def test_a_refused_order_is_tried_more_and_more_rarely(world):
    _, cluster, launcher, clock = world
    cluster.fail["create_job"] = [ForbiddenError("exceeded quota") for _ in range(50)]
    for _ in range(30):
        await launcher.turn()
        clock.now += 1
    assert len([c for c in cluster.calls if c[0] == "create_job"]) <= 6


async def test_an_invalid_job_ends_the_run_at_once(world):
    store, cluster, launcher, _ = world
    cluster.fail["create_job"] = [InvalidInputError("invalid", "spec.x: bad")]
    await launcher.turn()
    ending = store.of("ended")[0][1]
    assert (ending.reason, ending.final, ending.started) == (Reason.POD_REFUSED, True, False)


async def test_an_order_that_is_no_longer_wanted_is_dropped(world):
    store, cluster, launcher, clock = world
    cluster.fail["create_job"] = [ForbiddenError("exceeded quota")]
    await launcher.turn()
    store.rows.clear()
    clock.now += 100
    await launcher.turn()
    assert cluster.of("jobs") == []


async def test_a_deposed_leader_creates_nothing(world):
    store, cluster, launcher, _ = world
    store.deposed = True
    with pytest.raises(DeposedError):
        await launcher.turn()
    assert cluster.of("jobs") == []


async def test_old_pods_go_before_new_ones_come(world):
    store, cluster, launcher, _ = world
    old = "oldoldoldold0000"
    cluster.put("jobs", {"metadata": {"name": f"mp-{old}"}})
    cluster.put_pod(old, {"phase": "Running", "containerStatuses": [{"name": "task", "state": {"running": {}}}]})
    store.rows[old] = OpenPod(old, "team", "closing", None, None, None, None, 60.0, 0)
    await launcher.turn()
    methods = [call[0] for call in cluster.calls]
    assert methods.index("delete_job") < methods.index("create_job")


@pytest.mark.parametrize("seen", [True, False])
async def test_new_pods_avoid_a_node_that_fell_silent(world, monkeypatch, seen):
    store, cluster, launcher, _ = world
    if not seen:  # the watches of a new leader have not begun
        monkeypatch.setattr(cluster, "pods", list)
        monkeypatch.setattr(cluster, "jobs", list)
    old = "oldoldoldold0000"
    cluster.put("jobs", {"metadata": {"name": f"mp-{old}"}})
    pod = cluster.put_pod(old, {"phase": "Running", "containerStatuses": [{"name": "task", "state": {"running": {}}}]})
    cluster.objects["pods", "team", pod["metadata"]["name"]]["spec"] = {"nodeName": "node1"}
    store.rows[old] = OpenPod(old, "team", "closing", None, None, None, None, 60.0, 0, ended_as="LeaseExpired")
    await launcher.turn()
    (job,) = [job for job in cluster.of("jobs") if job["metadata"]["name"] != f"mp-{old}"]
    assert "node1" in str(job["spec"]["template"]["spec"]["affinity"])


async def test_a_leader_that_is_told_so_by_one_of_many_ends_as_such():
    async def act(number):
        if number == 2:
            raise DeposedError("epoch 3 is over")

    with pytest.raises(DeposedError):
        await each([1, 2, 3], act, at_once=2, what="pod")
