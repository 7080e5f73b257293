"""What Task objects show of their pods, and how often it is written."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from milepost_operator.domain.warm_views import WarmView
from milepost_operator.obs.metrics import Metrics
from milepost_operator.obs.operator import OperatorMetrics
from milepost_operator.reconcile.project import Bucket
from milepost_operator.reconcile.warm_status import TaskWarmStatus
from tests.fakes.kube import FakeCluster
from tests.unit.operator.store import FakeStore

T0 = datetime(2026, 5, 1, 12, tzinfo=UTC)
VIEW = WarmView("team", "index", idle=2, busy=1, hits=8, misses=3, cold_reason="busy")


class Bench:
    def __init__(self) -> None:
        self.store, self.cluster, self.now = FakeStore(), FakeCluster(), T0
        self.metrics = OperatorMetrics()
        self.cluster.put("tasks", {"metadata": {"name": "index"}, "spec": {}})
        bucket = Bucket(clock=lambda: 0.0, sleep=self._sleep)
        self.status = TaskWarmStatus(
            self.store, self.cluster, bucket, clock=lambda: self.now, on_states=self.metrics.show_pods
        )

    async def _sleep(self, _: float) -> None:
        return

    async def turn(self, *views: WarmView, after: float = 5.0) -> int:
        """How many calls one turn takes."""
        self.now += timedelta(seconds=after)
        self.store.warm = list(views)
        before = len(self.cluster.calls)
        await self.status.turn()
        return len(self.cluster.calls[before:])

    @property
    def shown(self) -> dict:
        (body,) = self.cluster.of("tasks")
        return body["status"]["warm"]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_task_with_pods_shows_them(bench):
    assert await bench.turn(VIEW) == 1
    assert bench.shown == {"idle": 2, "busy": 1, "hits": 8, "misses": 3, "coldReason": "busy"}


async def test_a_task_that_never_ran_is_left_alone(bench):
    assert await bench.turn(WarmView("team", "index", 0, 0, 0, 0)) == 0


async def test_numbers_that_change_are_written_every_15_seconds(bench):
    await bench.turn(VIEW)
    writes = [await bench.turn(replace(VIEW, hits=9 + n)) for n in range(6)]
    assert writes == [0, 0, 1, 0, 0, 1]


async def test_numbers_that_stay_are_written_seldom(bench):
    await bench.turn(VIEW)
    assert sum([await bench.turn(VIEW) for _ in range(59)]) == 0
    assert await bench.turn(VIEW) == 1


async def test_what_is_over_is_shown_as_nothing(bench):
    await bench.turn(VIEW)
    await bench.turn(WarmView("team", "index", 0, 0, 0, 0), after=15)
    assert {key: value for key, value in bench.shown.items() if value} == {}


async def test_a_task_that_is_gone_hinders_no_other(bench):
    assert await bench.turn(replace(VIEW, task="absent"), VIEW) == 2
    assert bench.shown["idle"] == 2


async def test_pods_are_counted_by_state_and_told_by_the_leader_alone(bench):
    bench.store.states = {"idle": 2, "bound": 1}
    await bench.turn()
    told = bench.metrics.exposition().decode()
    assert 'milepost_pods{state="idle"} 2.0' in told
    assert 'milepost_pods{state="offered"} 0.0' in told
    bench.metrics.forget()
    assert "milepost_pods{" not in bench.metrics.exposition().decode()


def test_starts_are_counted_with_the_reason_of_cold_ones():
    metrics = Metrics()
    for reason in (None, None, "version"):
        metrics.started(reason)
    told = metrics.exposition().decode()
    assert 'milepost_pod_starts_total{reason="",start="warm"} 2.0' in told
    assert 'milepost_pod_starts_total{reason="version",start="cold"} 1.0' in told
