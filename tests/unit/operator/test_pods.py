from datetime import UTC, datetime

import pytest

from milepost_operator.domain.states import Reason
from milepost_operator.reconcile.pods import Pods, resolved
from milepost_operator.reconcile.sweep import PodSweep
from tests.fakes.kube import FakeCluster
from tests.unit.operator.store import FakeStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = "abcdefgh01234567"
JOB = f"mp-{ID}"
RUNNING = {"phase": "Running", "containerStatuses": [{"name": "task", "state": {"running": {}}}]}
FAILED = {
    "phase": "Failed",
    "containerStatuses": [{"name": "task", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}],
}


@pytest.fixture
def store():
    return FakeStore()


@pytest.fixture
def cluster():
    return FakeCluster()


@pytest.fixture
def pods(store, cluster):
    return Pods(store, cluster, cluster, clock=lambda: NOW, config_grace_seconds=60)


def with_job(cluster, **status):
    job = cluster.put("jobs", {"metadata": {"name": JOB}})
    cluster.objects["jobs", "team", JOB]["status"] = status
    return job


def deleted(cluster):
    return ("delete_job", JOB) in cluster.calls


async def test_a_pod_at_work_is_left_alone(pods, store, cluster):
    store.row()
    with_job(cluster)
    cluster.put_pod(ID, RUNNING)
    await pods.turn()
    assert store.told == []
    assert not deleted(cluster)


async def test_a_failed_pod_ends_its_attempt_and_its_job_stays_for_people_to_read(pods, store, cluster):
    store.row()
    with_job(cluster)
    pod = cluster.put_pod(ID, FAILED)
    await pods.turn()
    ((uid, ending),) = store.of("ended")
    assert uid == pod["metadata"]["uid"]
    assert ending.reason is Reason.USER_FAILURE
    assert not deleted(cluster)


async def test_a_pod_that_can_not_start_is_deleted_when_its_attempt_ends(pods, store, cluster):
    store.row()
    with_job(cluster)
    waiting = {"name": "task", "state": {"waiting": {"reason": "InvalidImageName"}}}
    cluster.put_pod(ID, {"phase": "Pending", "containerStatuses": [waiting]})
    await pods.turn()
    assert store.of("ended")[0][1].reason is Reason.IMAGE_PULL
    assert deleted(cluster)


async def test_a_reason_to_wait_is_told_once(pods, store, cluster):
    store.row()
    with_job(cluster)
    unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no cpu"}
    cluster.put_pod(ID, {"phase": "Pending", "conditions": [unschedulable]})
    await pods.turn()
    await pods.turn()
    assert store.of("note") == [("Unschedulable", "no cpu")]


async def test_a_vanished_job_is_confirmed_before_the_attempt_ends(pods, store, cluster):
    store.row()
    await pods.turn()
    assert ("get_job", JOB) in cluster.calls
    assert store.of("ended")[0][1].reason is Reason.POD_LOST


async def test_a_young_row_may_be_ahead_of_the_watches(pods, store):
    store.row(age=1)
    await pods.turn()
    assert store.told == []


async def test_a_watch_that_is_behind_ends_nothing(pods, store, cluster):
    """The watches show no pod, the API server does."""
    store.row()
    cluster.pods = list
    cluster.jobs = list
    with_job(cluster)
    cluster.put_pod(ID, RUNNING)
    await pods.turn()
    assert store.told == []


async def test_nothing_is_concluded_from_a_dead_watch(pods, store, cluster):
    store.row()
    cluster.in_sync = False
    await pods.turn()
    assert store.told == []


async def test_a_bound_pod_replaced_by_another_is_lost(pods, store, cluster):
    store.row("bound", pod_uid="other")
    with_job(cluster)
    cluster.put_pod(ID, RUNNING)
    await pods.turn()
    assert store.of("ended")[0][1].reason is Reason.POD_LOST
    assert deleted(cluster)


async def test_a_closing_row_with_a_finished_pod_closes_and_the_job_is_left_to_its_ttl(pods, store, cluster):
    store.row("closing")
    with_job(cluster)
    cluster.put_pod(ID, FAILED)
    await pods.turn()
    assert store.of("closed")
    assert not deleted(cluster)


async def test_a_closing_row_with_a_live_pod_deletes_then_closes(pods, store, cluster):
    store.row("closing")
    with_job(cluster)
    cluster.put_pod(ID, RUNNING)
    await pods.turn()
    assert deleted(cluster)
    assert not store.of("closed")
    await pods.turn()
    assert store.of("closed")


async def test_a_settled_pod_has_time_to_end_by_itself(pods, store, cluster):
    store.row("closing", age=2, grace=10)
    with_job(cluster)
    cluster.put_pod(ID, RUNNING)
    await pods.turn()
    assert not deleted(cluster)


async def test_one_row_that_fails_hinders_no_other(pods, store, cluster):
    row = store.row()
    store.rows["zzzzzzzz01234567"] = row.__class__("zzzzzzzz01234567", "team", "closing", None, None, None, None, 9, 0)
    with_job(cluster)
    cluster.put_pod(ID, FAILED)

    async def broken(*_):
        raise RuntimeError("poison")

    store.pod_ended = broken
    await pods.turn()
    assert store.of("closed") == [("zzzzzzzz01234567",)]


@pytest.mark.parametrize(
    ("image", "shown", "digest"),
    [
        ("r.io/a:1", "r.io/a@sha256:ff", "r.io/a@sha256:ff"),
        ("busybox", "docker.io/library/busybox@sha256:ff", "docker.io/library/busybox@sha256:ff"),
        ("r.io/a:1", "sha256:ff", None),
        ("r.io/a:1", "docker.io/library/import-2026@sha256:ff", None),
        ("r.io/a@sha256:ee", "r.io/a@sha256:ee", None),
    ],
)
def test_only_a_registrys_digest_is_kept(image, shown, digest):
    pod = {
        "spec": {"containers": [{"name": "task", "image": image}]},
        "status": {"containerStatuses": [{"name": "task", "imageID": shown}]},
    }
    assert resolved(pod) == digest


@pytest.fixture
def sweep(store, cluster, pods):
    return PodSweep(store, cluster, cluster, pods, config_grace_seconds=60)


async def test_a_job_without_a_row_is_deleted(sweep, cluster):
    with_job(cluster)
    await sweep.turn()
    assert deleted(cluster)


async def test_a_finished_job_without_a_row_stays(sweep, cluster):
    with_job(cluster, conditions=[{"type": "Complete", "status": "True"}])
    await sweep.turn()
    assert not deleted(cluster)


async def test_a_job_with_an_open_row_stays(sweep, store, cluster):
    store.row()
    with_job(cluster)
    await sweep.turn()
    assert not deleted(cluster)


def refusal(cluster, job, message):
    cluster.put(
        "events",
        {
            "metadata": {},
            "involvedObject": {"uid": job["metadata"]["uid"]},
            "reason": "FailedCreate",
            "message": message,
            "lastTimestamp": "2026-01-01T00:00:00Z",
        },
    )


async def test_a_refused_pod_is_told_and_after_its_grace_final(sweep, store, cluster):
    job = with_job(cluster)
    refusal(cluster, job, 'pods "x" is forbidden: violates PodSecurity')
    store.row(age=10)
    await sweep.turn()
    assert store.of("note") == [("PodCreationRefused", 'pods "x" is forbidden: violates PodSecurity')]
    store.row(age=61)
    await sweep.turn()
    assert store.of("ended")[0][1].final


async def test_a_quota_is_waited_for(sweep, store, cluster):
    job = with_job(cluster)
    refusal(cluster, job, "exceeded quota: small")
    store.row(age=600)
    await sweep.turn()
    assert store.of("note")
    assert not store.of("ended")


async def test_a_volume_that_is_not_there_is_told(sweep, store, cluster):
    with_job(cluster)
    creating = {"name": "task", "state": {"waiting": {"reason": "ContainerCreating"}}}
    pod = cluster.put_pod(ID, {"phase": "Pending", "containerStatuses": [creating]})
    event = {
        "involvedObject": {"uid": pod["metadata"]["uid"]},
        "reason": "FailedMount",
        "message": 'secret "s" not found',
    }
    cluster.put("events", event)
    store.row(age=10)
    await sweep.turn()
    assert store.of("note") == [("ConfigError", 'secret "s" not found')]
