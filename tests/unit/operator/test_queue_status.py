"""What Queue objects show, and how often they are written."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from milepost_operator.domain.breaker import Phase, Policy
from milepost_operator.domain.queues import BreakerView, Override, QueueView
from milepost_operator.domain.why import Pause, RateUse
from milepost_operator.obs.operator import OperatorMetrics
from milepost_operator.reconcile.project import Bucket
from milepost_operator.reconcile.queues import QueueStatus, conditions_of, status_of
from tests.fakes.kube import FakeCluster
from tests.unit.operator.store import FakeStore

T0 = datetime(2026, 5, 1, 12, tzinfo=UTC)
VIEW = QueueView("team", "agents", depth=5, running=2, limit=2, spec_limit=2, oldest_at=T0)


class Bench:
    def __init__(self) -> None:
        self.store, self.cluster, self.now = FakeStore(), FakeCluster(), T0
        self.seen: list[list[QueueView]] = []
        self.cluster.put("queues", {"metadata": {"name": "agents"}, "spec": {}})
        bucket = Bucket(clock=lambda: 0.0, sleep=self._sleep)
        self.status = QueueStatus(
            self.store, self.cluster, bucket, clock=lambda: self.now, on_views=lambda v: self.seen.append(list(v))
        )

    async def _sleep(self, _: float) -> None:
        return

    async def turn(self, *views: QueueView, after: float = 5.0) -> int:
        """How many writes one turn takes."""
        self.now += timedelta(seconds=after)
        self.store.queues = list(views)
        before = len(self.cluster.calls)
        await self.status.turn()
        return len([call for call in self.cluster.calls[before:] if call[0] == "patch_status"])

    @property
    def shown(self) -> dict:
        (body,) = self.cluster.of("queues")
        return body["status"]

    def condition(self, kind: str) -> dict:
        return next((c for c in self.shown["conditions"] if c["type"] == kind), {})


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_numbers():
    view = replace(VIEW, rate=RateUse(100, 60, None), rate_used=12, override=Override(7, "bob", T0), limit=7)
    assert status_of(view) == {
        "depth": 5,
        "running": 2,
        "limit": 7,
        "override": 7,
        "oldest": "2026-05-01T12:00:00Z",
        "rate": "12/100 per 1m",
    }


OPEN = BreakerView(Policy(3, probes=4), Phase.OPEN, 3, 0, T0, T0)


@pytest.mark.parametrize(
    ("changes", "kind", "expected"),
    [
        ({}, "Paused", (False, "NotPaused", "")),
        ({"pause": Pause(T0)}, "Paused", (True, "PausedByManifest", "spec.paused")),
        (
            {"pause": Pause(T0, "alice", "upgrade")},
            "Paused",
            (True, "PausedAtRunTime", "by alice since 2026-05-01T12:00:00Z: upgrade"),
        ),
        (
            {"breaker": OPEN},
            "BreakerOpen",
            (True, "Open", "too many failures: open until 2026-05-01T12:00:00Z"),
        ),
        (
            {"breaker": replace(OPEN, phase=Phase.HALF_OPEN, passed=1)},
            "BreakerOpen",
            (True, "HalfOpen", "1 of 4 probes succeeded"),
        ),
        ({"breaker": replace(OPEN, phase=Phase.CLOSED)}, "BreakerOpen", (False, "Closed", "")),
    ],
)
def test_the_conditions(changes, kind, expected):
    said = {one.type: (one.holds, one.reason, one.message) for one in conditions_of(replace(VIEW, **changes))}
    assert said[kind] == expected
    assert ("BreakerOpen" in said) == ("breaker" in changes)


async def test_nothing_is_written_twice(bench: Bench):
    assert await bench.turn(VIEW) == 1
    assert (bench.shown["depth"], bench.condition("Paused")["status"]) == (5, "False")
    assert await bench.turn(VIEW) == 0
    assert await bench.turn(VIEW, after=61) == 0


async def test_numbers_wait_and_a_pause_does_not(bench: Bench):
    await bench.turn(VIEW)
    assert await bench.turn(replace(VIEW, depth=6)) == 0
    assert await bench.turn(replace(VIEW, depth=7)) == 0
    assert await bench.turn(replace(VIEW, depth=8)) == 1
    assert bench.shown["depth"] == 8
    assert await bench.turn(replace(VIEW, depth=9, pause=Pause(T0, "alice"))) == 1
    assert (bench.shown["depth"], bench.condition("Paused")["status"]) == (9, "True")
    assert await bench.turn(replace(VIEW, depth=9, pause=Pause(T0, "alice"), limit=9), after=1) == 1


async def test_what_others_changed_is_put_right(bench: Bench):
    await bench.turn(VIEW)
    bench.cluster.objects["queues", "team", "agents"]["status"]["conditions"] = [
        {"type": "Accepted", "status": "True", "reason": "Accepted"}
    ]
    assert await bench.turn(VIEW, after=30) == 0
    assert await bench.turn(VIEW, after=31) == 1
    assert bench.condition("Accepted")["status"] == "True"
    assert bench.condition("Paused")["status"] == "False"


async def test_a_breaker_that_was_taken_away_leaves_no_condition(bench: Bench):
    await bench.turn(replace(VIEW, breaker=OPEN))
    assert bench.condition("BreakerOpen")["status"] == "True"
    await bench.turn(VIEW)
    assert bench.condition("BreakerOpen") == {}


async def test_the_default_queue_needs_no_object_and_one_that_is_gone_is_forgotten(bench: Bench):
    assert await bench.turn(replace(VIEW, name="default")) == 0
    assert await bench.turn(VIEW) == 1
    assert await bench.turn() == 0
    bench.cluster.remove("queues", "team", "agents")
    bench.cluster.put("queues", {"metadata": {"name": "agents"}, "spec": {}})
    assert await bench.turn(VIEW) == 1


def test_the_gauges():
    metrics = OperatorMetrics()
    metrics.show_queues([VIEW, replace(VIEW, name="free", limit=None, oldest_at=None)])

    def sample(name: str, queue: str = "agents") -> float | None:
        return metrics.registry.get_sample_value(f"milepost_queue_{name}", {"namespace": "team", "queue": queue})

    assert (sample("depth"), sample("running"), sample("limit"), sample("paused")) == (5, 2, 2, 0)
    assert (sample("oldest_seconds") or 0) > 0
    assert (sample("limit", "free"), sample("oldest_seconds", "free")) == (float("inf"), 0)
    metrics.show_queues([])
    assert sample("depth") is None
