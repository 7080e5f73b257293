"""What Task objects tell of their recent attempts: conditions, written when they changed, and each news one Event."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from milepost_operator.domain.findings import Finding, Kind, TaskFinding
from milepost_operator.obs.operator import OperatorMetrics
from milepost_operator.reconcile.project import Bucket
from milepost_operator.reconcile.task_findings import LOOK_EVERY, NEWS, TaskFindingStatus
from tests.fakes.kube import FakeCluster
from tests.unit.operator.store import FakeStore

T0 = datetime(2026, 5, 1, 12, tzinfo=UTC)
STORM = TaskFinding("team", "index", Finding(Kind.RETRY_STORM, True, "RetryStorm", "25 retries", 25), T0)
SIZE = TaskFinding("team", "index", Finding(Kind.MEMORY_PROPOSAL, True, "Raise", "raise it", 2**30), T0)
ACCEPTED = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "x"}


def over(found: TaskFinding, after: timedelta = timedelta(minutes=1)) -> TaskFinding:
    ended = replace(found.finding, holds=False, reason="Over", message="no more")
    return replace(found, finding=ended, since=found.since + after)


class Bench:
    def __init__(self) -> None:
        self.store, self.cluster, self.now = FakeStore(), FakeCluster(), T0
        self.metrics = OperatorMetrics()
        self.cluster.put("tasks", {"metadata": {"name": "index"}, "spec": {}})
        self.show(ACCEPTED)
        bucket = Bucket(clock=lambda: 0.0, sleep=self._sleep)
        self.status = TaskFindingStatus(
            self.store, self.cluster, bucket, clock=lambda: self.now, on_findings=self.metrics.show_findings
        )

    def show(self, *conditions: dict[str, str]) -> None:
        """As if somebody else had written the status."""
        self.cluster.objects["tasks", "team", "index"]["status"] = {"conditions": list(conditions)}

    async def _sleep(self, _: float) -> None:
        return

    async def turn(self, *found: TaskFinding, after: timedelta = timedelta(seconds=5)) -> list[str]:
        """The calls that one turn takes."""
        self.now += after
        self.store.findings = list(found)
        before = len(self.cluster.calls)
        await self.status.turn()
        return [call[0] for call in self.cluster.calls[before:]]

    @property
    def conditions(self) -> dict[str, tuple[str, str]]:
        (body,) = self.cluster.of("tasks")
        return {one["type"]: (one["status"], one["reason"]) for one in body["status"]["conditions"]}

    def gauge(self) -> dict[str, float]:
        (family,) = self.metrics.findings.collect()
        return {sample.labels["finding"]: sample.value for sample in family.samples}


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_findings_are_conditions_beside_the_others(bench):
    await bench.turn(STORM, SIZE)
    assert bench.conditions == {
        "Accepted": ("True", "Accepted"),
        "RetryStorm": ("True", "RetryStorm"),
        "MemoryProposal": ("True", "Raise"),
    }
    assert bench.gauge() == {"RetryStorm": 1.0, "MemoryProposal": 1.0}
    await bench.turn(over(STORM))
    assert bench.conditions["RetryStorm"] == ("False", "Over")
    assert bench.gauge() == {}


async def test_each_news_is_one_event(bench):
    assert "create_event" in await bench.turn(STORM)
    assert "create_event" not in await bench.turn(STORM)
    assert "create_event" not in await bench.turn(over(STORM))
    again = replace(STORM, since=T0 + timedelta(minutes=2))
    assert "create_event" in await bench.turn(again, after=timedelta(minutes=2))
    (first, second) = bench.cluster.of("events")
    assert (first["type"], first["reason"], first["message"]) == ("Warning", "RetryStorm", "25 retries")
    assert first["involvedObject"]["kind"] == "Task"
    assert first["metadata"]["name"] != second["metadata"]["name"]


async def test_a_new_leader_tells_no_old_news(bench):
    assert "create_event" not in await bench.turn(STORM, after=NEWS + timedelta(seconds=1))
    assert bench.conditions["RetryStorm"][0] == "True"


async def test_a_proposal_is_no_warning(bench):
    await bench.turn(SIZE)
    (event,) = bench.cluster.of("events")
    assert event["type"] == "Normal"


async def test_what_others_took_away_comes_back(bench):
    await bench.turn(STORM)
    bench.show(ACCEPTED)
    assert await bench.turn(STORM) == []
    await bench.turn(STORM, after=LOOK_EVERY)
    assert bench.conditions.keys() == {"Accepted", "RetryStorm"}


async def test_a_task_that_is_gone_is_no_error(bench):
    await bench.turn(replace(STORM, task="other"))
    assert bench.cluster.of("events") == []
