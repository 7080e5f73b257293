"""Tasks that change while their Queue is taken in: their rows stay of the newest generation."""

import asyncio
import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.ports.kube import Object, Plural
from milepost_operator.reconcile.intake import ObjectIntake
from milepost_operator.reconcile.network import TaskNetworks
from tests.fakes.crd_samples import ENTRY, queue, task
from tests.fakes.kube import FakeCluster
from tests.integration.engine import NS

OLD = ENTRY | {"queue": "etl", "warm": {"seconds": 5}, "schedules": [{"name": "old", "cron": "* * * * *"}]}
NEW = ENTRY | {"queue": "etl", "warm": {"seconds": 77}, "schedules": [{"name": "new", "cron": "0 3 * * *"}]}


class World(FakeCluster):
    """Two Tasks of a Queue. The first question for the Queue after `hold` waits until `let` is set."""

    def __init__(self, store: PostgresStore) -> None:
        super().__init__()
        networks = TaskNetworks(store, self, None, ())
        self.intake = ObjectIntake(store, self, networks, clock=lambda: datetime.now(UTC), max_input_bytes=1000)
        self.asked, self.let = asyncio.Event(), asyncio.Event()
        self.hold = False

    async def get_object(self, plural: str, namespace: str, name: str) -> Any:
        if self.hold and plural == "queues":
            self.hold = False
            self.asked.set()
            await self.let.wait()
        return await super().get_object(plural, namespace, name)

    def body(self, plural: Plural, name: str) -> dict[str, Any]:
        return copy.deepcopy(self.objects[plural, NS, name])

    async def seen(self, name: str) -> None:
        """The Task's own event."""
        await self.intake.on_task(self.body("tasks", name), deleted=False)

    async def telling(self, body: Object, *, deleted: bool) -> "asyncio.Task[None]":
        """The Queue's event, which asks for the Queue and does not hear yet."""
        self.hold = True
        begun = asyncio.create_task(self.intake.on_queue(body, deleted=deleted))
        async with asyncio.timeout(5):
            await self.asked.wait()
        return begun


@pytest.fixture
async def world(store: PostgresStore) -> World:
    made = World(store)
    limits = made.put("queues", queue({"concurrency": 3}) | {"metadata": {"name": "etl"}})
    await made.intake.on_queue(limits, deleted=False)
    for name in ("first", "second"):
        made.put("tasks", task(OLD) | {"metadata": {"name": name}})
        await made.seen(name)
        await made.seen(name)  # what its status brings
    return made


async def schedules(store: PostgresStore, name: str) -> dict[str, bool]:
    """Whether each fires."""
    rows = await store._db.fetch(
        "select name, deleted_at is null and due_at is not null as due from schedules where task = $1", name
    )
    return {row["name"]: row["due"] for row in rows}


async def row_of(store: PostgresStore, name: str) -> Any:
    return await store._db.fetchrow(
        "select generation, present, warm ->> 'seconds' as seconds from tasks where name = $1", name
    )


async def test_a_task_that_changes_while_its_queue_is_taken_in_stays_as_it_is_now(
    store: PostgresStore, world: World
) -> None:
    limits = world.objects["queues", NS, "etl"]
    limits["spec"] = {"concurrency": 5}
    limits["metadata"]["generation"] = 2
    telling = await world.telling(world.body("queues", "etl"), deleted=False)
    changed = world.objects["tasks", NS, "second"]
    changed["spec"] = NEW
    changed["metadata"] |= {"generation": 2, "resourceVersion": "1000"}
    await world.seen("second")
    await world.seen("second")
    world.let.set()
    await telling
    assert tuple(await row_of(store, "second")) == (2, True, "77")
    assert await schedules(store, "second") == {"old": False, "new": True}
    assert changed["status"]["observedGeneration"] == 2


async def test_a_task_that_goes_while_its_queue_is_taken_in_stays_away(store: PostgresStore, world: World) -> None:
    telling = await world.telling(world.remove("queues", NS, "etl"), deleted=True)
    await world.intake.on_task(world.remove("tasks", NS, "second"), deleted=True)
    world.let.set()
    await telling
    assert not (await row_of(store, "second"))["present"]
    assert await schedules(store, "second") == {"old": False}
    assert (await row_of(store, "first"))["present"]
    said = {one["type"]: one["status"] for one in world.body("tasks", "first")["status"]["conditions"]}
    assert said["QueueFound"] == "False"
