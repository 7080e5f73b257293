"""What a Queue's event tells its Tasks, and what it leaves alone."""

import asyncio

import pytest

from milepost_operator.domain.errors import UnavailableError
from milepost_operator.manifests import raw
from tests.fakes.crd_samples import FULL, queue, task
from tests.unit.operator.intake import cluster, conditions, etl, intake, seen, store

__all__ = ["cluster", "intake", "store"]


class Gate:
    """Holds back what the API server says to the next question for a Queue."""

    def __init__(self, cluster, monkeypatch):
        self._plain = cluster.get_object
        self._open, self.reached = asyncio.Event(), asyncio.Event()
        monkeypatch.setattr(cluster, "get_object", self._get)

    async def _get(self, plural, namespace, name):
        found = await self._plain(plural, namespace, name)
        if not self.reached.is_set():
            self.reached.set()
            await self._open.wait()
        return found

    async def let(self, held):
        self._open.set()
        async with asyncio.timeout(5):
            await held


async def held(gate, work):
    """Work that has asked for a Queue, and does not hear yet."""
    begun = asyncio.create_task(work)
    async with asyncio.timeout(5):
        await gate.reached.wait()
    return begun


async def two_tasks(intake, cluster):
    """Two Tasks of a queue that is not there yet."""
    for name in ("first", "second"):
        await intake.on_task(cluster.put("tasks", task(FULL) | {"metadata": {"name": name}}), deleted=False)
        await intake.on_task(await cluster.get_object("tasks", "team", name), deleted=False)


async def test_a_queue_that_comes_is_found_by_its_tasks(intake, store, cluster):
    body = cluster.put("tasks", task(FULL))
    await intake.on_task(body, deleted=False)
    limits = queue({"concurrency": 2})
    limits["metadata"] = {"name": "etl"}
    await seen(intake, cluster)
    await intake.on_queue(cluster.put("queues", limits), deleted=False)
    assert store.of("queue")[0][0].concurrency == 2
    assert conditions(cluster, "tasks")["QueueFound"] == ("True", "QueueFound")
    await seen(intake, cluster)
    await intake.on_queue(cluster.remove("queues", "team", "etl"), deleted=True)
    assert store.of("queue removed") == [("team", "etl")]
    assert conditions(cluster, "tasks")["QueueFound"] == ("False", "QueueNotFound")


async def test_a_queue_takes_in_no_task_as_it_was_before(intake, store, cluster, monkeypatch):
    await two_tasks(intake, cluster)
    gate = Gate(cluster, monkeypatch)
    telling = await held(gate, intake.on_queue(cluster.put("queues", etl()), deleted=False))
    body = cluster.objects["tasks", "team", "second"]
    body["metadata"] |= {"generation": 2, "resourceVersion": "1000"}
    await intake.on_task(await cluster.get_object("tasks", "team", "second"), deleted=False)
    await gate.let(telling)
    await intake.on_task(await cluster.get_object("tasks", "team", "second"), deleted=False)
    taken = [(one.name, one.generation) for (one,) in store.of("task")]
    assert taken == [("first", 1), ("second", 1), ("second", 2)]
    assert body["status"]["observedGeneration"] == 2
    for name in ("first", "second"):
        said = cluster.objects["tasks", "team", name]["status"]["conditions"]
        assert {one["type"]: one["status"] for one in said}["QueueFound"] == "True"


async def test_a_task_that_goes_while_its_queue_is_taken_in_stays_away(intake, store, cluster, monkeypatch):
    await two_tasks(intake, cluster)
    gate = Gate(cluster, monkeypatch)
    telling = await held(gate, intake.on_queue(cluster.put("queues", etl()), deleted=False))
    await intake.on_task(cluster.remove("tasks", "team", "second"), deleted=True)
    told = len(store.told)
    await gate.let(telling)
    assert store.of("task removed") == [("team", "second")]
    assert store.told[told:] == []
    assert [raw.name(one) for one in intake.tasks()] == ["first"]


async def test_a_queue_tells_no_task_that_was_refused(intake, store, cluster):
    await intake.on_task(cluster.put("tasks", task({"image": "a", "queue": "etl", "entrypoint": 1})), deleted=False)
    await seen(intake, cluster)
    await intake.on_queue(cluster.put("queues", etl()), deleted=False)
    assert not store.of("task")
    assert conditions(cluster, "tasks") == {"Accepted": ("False", "Invalid")}


async def test_a_task_that_heard_of_its_queue_too_early_hears_again(intake, cluster, monkeypatch):
    await intake.on_task(cluster.put("tasks", task(FULL)), deleted=False)
    await seen(intake, cluster)
    await intake.on_queue(cluster.put("queues", etl()), deleted=False)
    cluster.remove("queues", "team", "etl")
    gate = Gate(cluster, monkeypatch)
    (shown,) = cluster.of("tasks")
    showing = await held(gate, intake.on_task(shown, deleted=False))  # it hears that there is none
    await intake.on_queue(cluster.put("queues", etl()), deleted=False)
    assert conditions(cluster, "tasks")["QueueFound"] == ("True", "QueueFound")
    await gate.let(showing)
    assert conditions(cluster, "tasks")["QueueFound"] == ("False", "QueueNotFound")
    await seen(intake, cluster)  # its own word is an event too
    assert conditions(cluster, "tasks")["QueueFound"] == ("True", "QueueFound")


async def test_what_others_say_of_a_task_meanwhile_outlasts_the_word_of_its_queue(intake, cluster):
    await intake.on_task(cluster.put("tasks", task(FULL)), deleted=False)
    await seen(intake, cluster)
    (shown,) = cluster.of("tasks")
    note = {"type": "Prewarmed", "status": "True", "reason": "Kept"}
    await cluster.patch_status(
        "tasks", "team", shown["metadata"]["name"], {"status": {"conditions": [note, *shown["status"]["conditions"]]}}
    )
    await intake.on_queue(cluster.put("queues", etl()), deleted=False)
    assert conditions(cluster, "tasks")["Prewarmed"] == ("True", "Kept")
    await seen(intake, cluster)
    assert conditions(cluster, "tasks")["Prewarmed"] == ("True", "Kept")
    assert conditions(cluster, "tasks")["QueueFound"] == ("True", "QueueFound")


async def test_a_queue_whose_word_did_not_arrive_says_it_again(intake, cluster):
    await intake.on_task(cluster.put("tasks", task(FULL)), deleted=False)
    await seen(intake, cluster)
    body = cluster.put("queues", etl())
    cluster.fail["get_object"] = [UnavailableError("no answer")]
    with pytest.raises(UnavailableError):
        await intake.on_queue(body, deleted=False)
    await intake.on_queue(body, deleted=False)
    assert conditions(cluster, "tasks")["QueueFound"] == ("True", "QueueFound")


async def test_the_word_of_a_queue_changes_nothing_of_the_place_of_conditions(intake, cluster):
    await intake.on_task(
        cluster.put("tasks", task(FULL | {"schedules": [{"name": "a", "cron": "@daily"}]})), deleted=False
    )
    await seen(intake, cluster)
    await intake.on_queue(cluster.put("queues", etl()), deleted=False)
    before = len(cluster.calls)
    await seen(intake, cluster)
    assert [call for call in cluster.calls[before:] if call[0] == "patch_status"] == []
