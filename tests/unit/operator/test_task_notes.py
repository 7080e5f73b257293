"""Conditions that rows bring about: what they say, and that no other writer's word is lost."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from milepost_operator.domain.prewarm_views import TaskFacts
from milepost_operator.reconcile.project import Bucket
from milepost_operator.reconcile.task_notes import TaskNotes, said_of
from tests.fakes.kube import FakeCluster
from tests.unit.operator.store import FakeStore

T0 = datetime(2026, 5, 1, 12, tzinfo=UTC)
FACTS = TaskFacts("team", "index", 3)
ACCEPTED = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "x"}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, []),
        ({"least": 2, "target": 2}, [("Prewarmed", True, "Kept")]),
        ({"target": 2, "cause": "arrivals"}, []),
        ({"target": 0, "held_back": "Trouble"}, [("Prewarmed", False, "Trouble")]),
        ({"target": 1, "held_back": "Room"}, []),
        ({"least": 1, "target": 1, "held_back": "Room"}, [("Prewarmed", False, "Room")]),
        ({"pull": "wanted"}, [("ImagePulled", False, "Pulling")]),
        ({"pull": "pulling", "pull_reason": "ErrImagePull"}, [("ImagePulled", False, "ErrImagePull")]),
        ({"pull": "failed", "pull_reason": "ErrImagePull"}, [("ImagePulled", False, "ErrImagePull")]),
        ({"pull": "pulled", "nodes": 2}, [("ImagePulled", True, "Pulled")]),
        ({"pull": "given-up"}, []),
        ({"left": ["thread a"]}, [("NotForkSafe", True, "ImportLeaves")]),
    ],
)
def test_what_is_said(facts, expected):
    assert [(one.type, one.holds, one.reason) for one in said_of(replace(FACTS, **facts))] == expected


def test_it_says_what_was_found_and_what_it_costs():
    (said,) = said_of(replace(FACTS, left=[f"thread {n}" for n in range(7)]))
    assert "version 3 leaves thread 0, thread 1, thread 2, thread 3, thread 4 and 2 more" in said.message
    assert "each imports the task anew" in said.message
    (kept,) = said_of(replace(FACTS, least=4, target=1))
    assert kept.message == "1 pods (of 4: no more can be at work at once) are there at least, or on their way"


class Bench:
    def __init__(self):
        self.store, self.cluster = FakeStore(), FakeCluster()
        self.cluster.put("tasks", {"metadata": {"name": "index"}, "spec": {}})
        self.body()["status"] = {"conditions": [ACCEPTED]}
        bucket = Bucket(clock=lambda: 0.0, sleep=self._sleep)
        self.notes = TaskNotes(
            self.store, self.cluster, bucket, tasks=lambda: self.cluster.of("tasks"), clock=lambda: T0
        )

    async def _sleep(self, _):
        return

    def body(self):
        return self.cluster.objects["tasks", "team", "index"]

    async def turn(self, *facts):
        """How many writes a turn takes."""
        self.store.facts, before = list(facts), len(self.cluster.calls)
        await self.notes.turn()
        return len(self.cluster.calls) - before

    def shown(self):
        return {one["type"]: one["status"] for one in self.body()["status"]["conditions"]}


async def test_it_is_written_once_and_again_where_another_writer_undid_it():
    bench, facts = Bench(), replace(FACTS, left=["thread a"])
    assert await bench.turn(facts) == 1
    assert await bench.turn(facts) == 0
    assert bench.shown() == {"Accepted": "True", "NotForkSafe": "True"}
    bench.body()["status"]["conditions"] = [ACCEPTED]
    assert await bench.turn(facts) == 1
    assert bench.shown() == {"Accepted": "True", "NotForkSafe": "True"}


async def test_what_no_longer_holds_goes_and_what_others_said_stays():
    bench = Bench()
    await bench.turn(replace(FACTS, left=["thread a"], pull="pulled", nodes=1))
    assert await bench.turn(replace(FACTS, pull="pulled", nodes=1)) == 1, "a new version leaves nothing"
    assert bench.shown() == {"Accepted": "True", "ImagePulled": "True"}
    assert await bench.turn() == 1
    assert await bench.turn() == 0
    assert bench.shown() == {"Accepted": "True"}
