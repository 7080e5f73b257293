"""Schedules of Tasks: what is wrong with one is told, the others fire, and the status shows what comes next."""

from datetime import UTC, datetime, timedelta

import pytest

from milepost_operator.domain.schedules import ScheduleSpec, TaskSchedules
from milepost_operator.reconcile.intake import ObjectIntake
from milepost_operator.reconcile.network import TaskNetworks
from milepost_operator.reconcile.project import Bucket
from milepost_operator.reconcile.schedules import TaskScheduleStatus
from tests.fakes.crd_samples import ENTRY, SCHEDULES, task
from tests.fakes.kube import FakeCluster
from tests.unit.operator.store import FakeStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store():
    return FakeStore()


@pytest.fixture
def cluster():
    return FakeCluster()


@pytest.fixture
def intake(store, cluster):
    return ObjectIntake(store, cluster, TaskNetworks(store, cluster, None, ()), clock=lambda: NOW, max_input_bytes=1000)


def condition(cluster):
    (found,) = cluster.of("tasks")
    return next((c for c in found["status"]["conditions"] if c["type"] == "SchedulesAccepted"), None)


async def test_schedules_become_rows_with_defaults(intake, store, cluster):
    await intake.on_task(cluster.put("tasks", task(ENTRY | {"schedules": SCHEDULES})), deleted=False)
    (((name, full), (_, hourly), _), kept) = store.of("schedules")[0]
    assert (name, kept, full.input) == ("nightly", [], '{"top":100,"deep":[{"x":1}]}')
    assert (full.jitter_seconds, full.overlap, full.missed, full.catchup_limit) == (300, "forbid", "catchup", 50)
    assert (full.priority, full.concurrency_key, full.tags, full.paused) == (-10, "reports", ("daily",), True)
    assert hourly == ScheduleSpec("@hourly")
    assert condition(cluster)["status"] == "True"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cron": "61 * * * *"}, "schedule bad: cron: cron: minute: 61 is not from 0 to 59"),
        ({"cron": "0 0 31 2 *"}, "no day 31 ever comes in Feb"),
        ({"timeZone": "Europe/Berlln"}, "did you mean 'Europe/Berlin'?"),
        ({"input": "\x00"}, "schedule bad: input"),
        ({"input": "x" * 70_000}, "a schedule's may have 65536"),
        ({"tags": ["\x00"]}, "schedule bad: tags"),
        ({"endAt": "2026-01-01T12:00:00Z", "startAt": "2026-01-01T01:00:00Z", "cron": "0 0 1 7 *"}, "no slot of cron"),
    ],
)
async def test_a_schedule_that_can_not_fire_is_told_and_the_rest_goes_on(intake, store, cluster, changes, said):
    spec = ENTRY | {"schedules": [{"name": "bad", "cron": "@daily"} | changes, {"name": "good", "cron": "@daily"}]}
    await intake.on_task(cluster.put("tasks", task(spec)), deleted=False)
    ((good, kept),) = store.of("schedules")
    assert ([name for name, _ in good], kept) == (["good"], ["bad"])
    assert (condition(cluster)["status"], condition(cluster)["reason"]) == ("False", "Invalid")
    assert said in condition(cluster)["message"]
    (shown,) = cluster.of("tasks")
    assert {c["type"]: c["status"] for c in shown["status"]["conditions"]}["Accepted"] == "True"


async def test_a_name_that_the_api_has_is_told(intake, store, cluster):
    store.taken = ["often"]
    spec = ENTRY | {"schedules": [{"name": "often", "cron": "@daily"}]}
    await intake.on_task(cluster.put("tasks", task(spec)), deleted=False)
    assert "made through the API" in condition(cluster)["message"]


async def test_a_task_without_schedules_says_nothing_of_them(intake, store, cluster):
    await intake.on_task(cluster.put("tasks", task(ENTRY)), deleted=False)
    assert condition(cluster) is None
    assert store.of("schedules") == [([], [])]


def scheduled(cluster, store, name="t", minutes=0):
    made = TaskSchedules(
        "team",
        name,
        NOW + timedelta(minutes=minutes),
        NOW + timedelta(hours=1),
        ['{"name": "a", "nextRun": "2026-01-01T01:00:00Z", "paused": false, "message": ""}'],
    )
    store.scheduled.append(made)
    body = task(ENTRY)
    body["metadata"] = {"name": name, "namespace": "team"}
    cluster.put("tasks", body)


async def test_the_status_shows_the_next_run_and_is_written_once(store, cluster):
    scheduled(cluster, store)
    status = TaskScheduleStatus(store, cluster, Bucket())
    await status.turn()
    (shown,) = cluster.of("tasks")
    assert shown["status"]["nextRun"] == "2026-01-01T01:00:00Z"
    assert shown["status"]["schedules"] == [{"name": "a", "nextRun": "2026-01-01T01:00:00Z"}]
    before = len(cluster.calls)
    await status.turn()
    assert cluster.calls[before:] == []
    assert store.of("task schedules") == [(None,), (NOW - timedelta(seconds=15),)]


async def test_a_turn_writes_so_many_and_the_next_goes_on(store, cluster, monkeypatch):
    monkeypatch.setattr("milepost_operator.reconcile.schedules.PER_TURN", 2)
    for n in range(5):
        scheduled(cluster, store, f"t{n}", n)
    status = TaskScheduleStatus(store, cluster, Bucket())
    for _ in range(3):
        await status.turn()
    assert all("nextRun" in one["status"] for one in cluster.of("tasks"))


async def test_a_task_that_is_gone_holds_nothing_up(store, cluster):
    scheduled(cluster, store, "gone", 0)
    cluster.remove("tasks", "team", "gone")
    scheduled(cluster, store, "here", 1)
    status = TaskScheduleStatus(store, cluster, Bucket())
    await status.turn()
    (shown,) = cluster.of("tasks")
    assert shown["status"]["nextRun"]
    store.scheduled.clear()
    scheduled(cluster, store, "gone", 2)  # it is back, and its schedules were taken up again
    await status.turn()
    assert all(one["status"]["nextRun"] for one in cluster.of("tasks"))
