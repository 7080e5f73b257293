import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from milepost_operator.domain.errors import ForbiddenError
from milepost_operator.domain.runs import Projection, RunEvent, RunView
from milepost_operator.domain.states import RunState
from milepost_operator.manifests import run_cr
from milepost_operator.reconcile.project import Bucket, Projector
from milepost_operator.reconcile.sweep import ManifestSweep, RunSweep
from tests.fakes.kube import FakeCluster
from tests.unit.operator.store import FakeStore

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
RUN_ID = UUID("5e0a9d2e-93a4-4b6e-8f0e-0d6f6d6a1b11")
VIEW = RunView(
    run_id=RUN_ID,
    namespace="team",
    name="r1",
    task="etl",
    queue="default",
    state=RunState.RUNNING,
    reason=None,
    message=None,
    rev=4,
    attempt=2,
    attempts_counted=1,
    max_attempts=3,
    version=1,
    origin="api",
    intent_uid=None,
    tags=["a"],
    idempotency_key=None,
    pod_id="p",
    pod_name="mp-p-x",
    last_seq=14,
    last_key="parse/json",
    resumed_after=14,
    progress=0.4,
    progress_message="indexing",
    input='{"x": 1}',
    result=None,
    error=None,
    dead_lettered=False,
    created_at=T0,
    ready_at=T0,
    admitted_at=T0 + timedelta(seconds=1),
    started_at=T0 + timedelta(seconds=2),
    finished_at=None,
)
EVENT = RunEvent(3, "AttemptResumed", "attempt 2 resumed after checkpoint 14 (parse/json)", False, T0)


async def no_sleep(_):
    return None


@pytest.fixture
def world():
    store, cluster = FakeStore(), FakeCluster()
    return store, cluster, Projector(store, cluster, Bucket(sleep=no_sleep), progress_seconds=15)


def test_the_status_of_a_resumed_run_is_exactly_this():
    status = run_cr.status(VIEW)
    conditions = {c["type"]: c["status"] for c in status.pop("conditions")}
    assert conditions == {"Accepted": "True", "Admitted": "True", "Running": "True", "Succeeded": "Unknown"}
    assert status == {
        "runID": str(RUN_ID),
        "phase": "Running",
        "attempt": 2,
        "attemptsCounted": 1,
        "maxAttempts": 3,
        "lastCheckpoint": "parse/json",
        "lastSeq": 14,
        "resumedAfter": 14,
        "progress": "40% indexing",
        "reason": None,
        "message": None,
        "podName": "mp-p-x",
        "version": 1,
        "queue": "default",
        "startedAt": "2026-01-01T12:00:02Z",
        "finishedAt": None,
    }
    assert run_cr.status(VIEW, generation=2)["observedGeneration"] == 2


@pytest.mark.parametrize("state", list(RunState))
def test_every_state_has_a_phase_and_conditions(state):
    status = run_cr.status(replace(VIEW, state=state, finished_at=T0))
    assert status["phase"][0].isupper()
    assert all(c["lastTransitionTime"] and c["reason"] for c in status["conditions"])


def test_a_run_however_large_is_at_most_4_kb():
    view = replace(
        VIEW,
        name="n" * 253,
        task="t" * 253,
        queue="q" * 253,
        message="m" * 5000,
        last_key="ü" * 512,
        progress_message="p" * 5000,
        input=json.dumps("x" * 100_000),
        idempotency_key="k" * 256,
        tags=["g" * 128] * 32,
        pod_name="p" * 253,
    )
    whole = run_cr.body(view) | {"status": run_cr.status(view)}
    assert len(json.dumps(whole, ensure_ascii=False).encode()) <= run_cr.MAX_BYTES
    assert "input" not in whole["spec"]


async def test_a_run_without_an_object_gets_one_with_status_and_events(world):
    store, cluster, projector = world
    store.projections = [Projection(VIEW, None, 0, [EVENT])]
    await projector.turn()
    (shown,) = cluster.of("runs")
    assert shown["spec"] == {"task": "etl", "runID": str(RUN_ID), "input": {"x": 1}, "tags": ["a"]}
    assert shown["status"]["phase"] == "Running"
    (event,) = cluster.of("events")
    assert event["involvedObject"]["uid"] == shown["metadata"]["uid"]
    assert store.of("projected") == [(4, shown["metadata"]["uid"], 3)]


async def test_a_transition_is_one_status_patch(world):
    store, cluster, projector = world
    made = cluster.put("runs", run_cr.body(VIEW))
    store.projections = [Projection(VIEW, made["metadata"]["uid"], 3, [])]
    await projector.turn()
    assert [c[0] for c in cluster.calls] == ["patch_status"]


async def test_a_deleted_projection_comes_back(world):
    store, cluster, projector = world
    store.projections = [Projection(VIEW, "gone", 3, [])]
    await projector.turn()
    (shown,) = cluster.of("runs")
    assert store.of("projected") == [(4, shown["metadata"]["uid"], 0)]


async def test_an_intent_gets_its_annotation_once_and_is_never_made_anew(world):
    store, cluster, projector = world
    body = {"metadata": {"name": "r1"}, "spec": {"task": "etl"}}
    uid = cluster.put("runs", body)["metadata"]["uid"]
    view = replace(VIEW, intent_uid=uid, origin="kubectl")
    store.projections = [Projection(view, uid, 0, [])]
    await projector.turn()
    (shown,) = cluster.of("runs")
    assert shown["metadata"]["annotations"] == {"milepost.dev/run-id": str(RUN_ID)}
    cluster.remove("runs", "team", "r1")
    store.projections = [Projection(view, uid, 4, [])]
    await projector.turn()
    assert cluster.of("runs") == []
    assert store.of("projected")[-1] == (4, None, 0)


async def test_a_users_run_of_the_same_name_is_not_taken_over(world):
    store, cluster, projector = world
    cluster.put("runs", {"metadata": {"name": "r1"}, "spec": {"task": "other"}})
    store.projections = [Projection(VIEW, None, 0, [])]
    await projector.turn()
    (shown,) = cluster.of("runs")
    assert "status" not in shown
    assert store.of("projected") == [(4, None, 0)]


async def test_a_projection_that_is_there_is_adopted(world):
    store, cluster, projector = world
    made = cluster.put("runs", run_cr.body(VIEW))
    store.projections = [Projection(VIEW, None, 0, [])]
    await projector.turn()
    assert store.of("projected") == [(4, made["metadata"]["uid"], 0)]


async def test_what_is_refused_is_not_tried_in_a_loop(world):
    store, cluster, projector = world
    cluster.fail["create_run"] = [ForbiddenError("namespace is being terminated")]
    store.projections = [Projection(VIEW, None, 0, [])]
    await projector.turn()
    assert store.of("projected") == [(4, None, 0)]


async def test_writes_keep_to_their_rate():
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    bucket = Bucket(20, 2, clock=lambda: 0.0, sleep=sleep)
    for _ in range(5):
        await bucket.take()
    assert slept == pytest.approx([0.05, 0.1, 0.15])


class Clock:
    now = T0

    def __call__(self):
        return self.now


@pytest.fixture
def absent():
    store, cluster, clock = FakeStore(), FakeCluster(), Clock()
    store.intents = [("team", "r1", "uid-of-r1")]
    return store, cluster, clock, RunSweep(store, store, cluster, (), clock=clock)


async def test_a_run_absent_from_two_lists_30_seconds_apart_is_deleted(absent):
    store, _, clock, sweep = absent
    await sweep.turn()
    clock.now += timedelta(seconds=10)
    await sweep.turn()
    assert not store.of("forget")
    clock.now += timedelta(seconds=20)
    await sweep.turn()
    assert store.of("forget") == [("uid-of-r1",)]


@pytest.mark.parametrize("gone", ["crd", "namespace"])
async def test_runs_that_went_with_their_kind_or_namespace_cancel_nothing(absent, gone):
    store, cluster, clock, sweep = absent
    if gone == "crd":
        cluster.crds_gone = True
    else:
        cluster.namespaces_gone.add("team")
    for _ in range(3):
        await sweep.turn()
        clock.now += timedelta(seconds=30)
    assert not store.of("forget")


async def test_a_run_that_is_back_starts_anew(absent):
    store, cluster, clock, sweep = absent
    await sweep.turn()
    made = cluster.put("runs", {"metadata": {"name": "r1"}, "spec": {}})
    cluster.objects["runs", "team", "r1"]["metadata"]["uid"] = "uid-of-r1"
    clock.now += timedelta(seconds=30)
    await sweep.turn()
    cluster.remove("runs", "team", made["metadata"]["name"])
    clock.now += timedelta(seconds=30)
    await sweep.turn()
    assert not store.of("forget")


async def test_a_task_deleted_while_nobody_watched_is_removed():
    store, cluster, clock = FakeStore(), FakeCluster(), Clock()
    kept = cluster.put("tasks", {"metadata": {"name": "kept"}, "spec": {}})["metadata"]["uid"]
    store.manifests = [("tasks", "team", "kept", kept), ("tasks", "team", "gone", "u1"), ("queues", "team", "q", "u2")]
    sweep = ManifestSweep(store, cluster, (), clock=clock)
    await sweep.turn()
    assert not store.told
    clock.now += timedelta(seconds=30)
    await sweep.turn()
    assert sorted(store.told) == [("queue removed", "team", "q"), ("task removed", "team", "gone")]
