"""A Task's limits change between claims, and a late generation of it changes nothing."""

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.schedule_rows import put_schedule
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import QueueIntake, Semaphore
from milepost_operator.domain.schedules import ScheduleSpec
from milepost_operator.domain.slots import begin
from tests.integration.engine import (
    NS,
    apply_task,
    trigger,
)
from tests.integration.locks import blocked


@pytest.mark.parametrize("before", [5, None])
@pytest.mark.parametrize("queues", [("wide",), ("wide", "side")])
async def test_a_tasks_limit_that_is_lowered_during_a_claim_waits_for_it(
    store: PostgresStore,
    other: PostgresStore,
    hand: "asyncpg.Connection[asyncpg.Record]",
    before: int | None,
    queues: tuple[str, ...],
) -> None:
    runs = []
    for queue in queues:
        await store.apply_queue(QueueIntake(NS, queue, "u", 1, 100))
        await apply_task(store, queue=queue, concurrency=before)
        runs += [await trigger(store) for _ in range(5)]
    async with hand.transaction():
        # the claim has looked at the Task, and has not committed, whichever queue it began with
        await hand.execute("select from run_heads where run_id = any($1) for update", [run.run_id for run in runs])
        claim = asyncio.create_task(store.admit(10))
        await blocked(hand, claim)
        lower = asyncio.create_task(apply_task(other, queue="wide", concurrency=1, generation=2))
        done, _ = await asyncio.wait([lower], timeout=0.3)
        assert not done
    assert await claim > 0
    await lower
    assert await store.admit(10) == 0
    (late,) = await store._db.fetch(
        "select count(*) as n from attempts a join runs r using (run_id, attempt) join tasks t on t.name = r.task"
        " where a.reserved_at > t.updated_at"
    )
    assert late["n"] == 0, "what was admitted was admitted before"


async def test_a_claim_waits_for_no_task_that_is_changing(
    store: PostgresStore, other: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await store.apply_queue(QueueIntake(NS, "wide", "u", 1, 100))
    await apply_task(store, queue="wide", concurrency=5)
    await trigger(store)
    await trigger(store)
    async with hand.transaction():
        await hand.execute("select from tasks where name = 'index' for update")
        lower = asyncio.create_task(apply_task(other, queue="wide", concurrency=1, generation=2))
        await blocked(hand, lower)
        assert await store.admit(10) == 2, "within the limit that stands"
    await lower
    await trigger(store)
    assert await store.admit(10) == 0


@pytest.mark.parametrize(("concurrency", "meanwhile", "after"), [(1, 0, 1), (5, 2, 0)])
async def test_nothing_is_claimed_while_limits_change_and_all_goes_on_while_they_do_not(  # noqa: PLR0917
    store: PostgresStore,
    other: PostgresStore,
    hand: "asyncpg.Connection[asyncpg.Record]",
    concurrency: int,
    meanwhile: int,
    after: int,
) -> None:
    await store.apply_queue(QueueIntake(NS, "wide", "u", 1, 100))
    await apply_task(store, queue="wide", concurrency=5)
    await trigger(store)
    await trigger(store)
    async with hand.transaction():
        await hand.execute("lock table task_checks in access exclusive mode")  # it has written its limits by then
        change = asyncio.create_task(apply_task(other, queue="wide", concurrency=concurrency, generation=2))
        await blocked(hand, change)
        assert await store.admit(10) == meanwhile
    await change
    assert await store.admit(10) == after


async def test_a_semaphore_that_is_lowered_during_a_claim_waits_for_it(
    store: PostgresStore, other: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await store.apply_queue(QueueIntake(NS, "wide", "u", 1, 100))
    await apply_task(store, queue="wide", semaphores=[Semaphore("gpu", 5)])
    runs = [await trigger(store) for _ in range(5)]
    async with hand.transaction():
        await hand.execute("select from run_heads where run_id = $1 for update", runs[0].run_id)
        claim = asyncio.create_task(store.admit(10))
        await blocked(hand, claim)
        # another Task has the last word on what they share
        shared = [Semaphore("gpu", 1), Semaphore("gpu", 1), Semaphore("cpu", 1)]
        lower = asyncio.create_task(apply_task(other, "second", queue="wide", semaphores=shared))
        done, _ = await asyncio.wait([lower], timeout=0.3)
        assert not done
    assert await claim == 5
    await lower
    assert {r["name"] for r in await store._db.fetch("select name from limits where kind = 'semaphore'")} == {
        "gpu",
        "cpu",
    }
    assert await store.admit(10) == 0


async def task_row(hand: "asyncpg.Connection[asyncpg.Record]") -> dict[str, Any]:
    row = await hand.fetchrow("select * from tasks")
    assert row
    return dict(row)


async def test_an_older_generation_that_comes_late_wins_nothing(
    store: PostgresStore, other: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await apply_task(store, shape={"entrypoint": "a:old"}, restart="a", queue="slow")
    version = await apply_task(
        store, generation=2, warm={"min": 2}, network={"egress": "none"}, prepull=True, restart="b"
    )
    assert await store.prewarm() == 2
    before = await task_row(hand)
    pods = await hand.fetch("select * from pods")
    assert [pod["state"] for pod in pods] == ["ahead", "ahead"]
    changes: dict[str, object] = {"shape": {"entrypoint": "a:older"}, "retention": {"success_seconds": 5}}
    assert await apply_task(other, warm={"seconds": 5}, restart="a", queue="slow", **changes) == version
    assert await task_row(hand) == before
    assert await hand.fetch("select * from pods") == pods
    assert await hand.fetchval("select max(version) from task_versions") == version
    # one that is gone, or is another Task of its name, takes what it is told
    await apply_task(other, uid="uid-2", warm={"seconds": 5}, restart="a")
    assert [(await task_row(hand))[key] for key in ("uid", "generation", "warm", "network", "restart")] == [
        "uid-2",
        1,
        '{"seconds":5}',
        None,
        "a",
    ]


async def test_schedules_that_waited_for_a_lock_are_of_an_older_generation_by_then(
    store: PostgresStore, other: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    daily = ScheduleSpec("@daily")
    await apply_task(store)
    await store.apply_schedules(NS, "index", [("a", daily)], uid="uid-index", generation=1)
    async with hand.transaction():
        await hand.execute(Q["lock_schedules_of_task"], "default", NS, "index")
        old = asyncio.create_task(
            store.apply_schedules(NS, "index", [("a", daily), ("old", daily)], uid="uid-index", generation=1)
        )
        await blocked(hand, old)
        await apply_task(other, generation=2)
    assert await old == []
    assert [one.name for one in await store.list_schedules(NS)] == ["a"]


async def test_a_task_changes_once_the_schedules_of_its_generation_are_in(
    store: PostgresStore, other: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    daily, schedule_id = ScheduleSpec("@daily"), uuid4()
    await apply_task(store)
    begun = hand.transaction()
    await begun.start()  # a schedule of this name, which will not have been
    key = (schedule_id, "default", NS, "index", "a")
    decision = begin(schedule_id, daily, 0)
    assert await put_schedule(hand, key, daily, decision, managed=True, active=True, paused_by=None)
    old = asyncio.create_task(store.apply_schedules(NS, "index", [("a", daily)], uid="uid-index", generation=1))
    await blocked(hand, old)
    newer = asyncio.create_task(apply_task(other, generation=2))
    await blocked(hand, newer, of=2)
    assert not newer.done()
    await begun.rollback()
    assert (await old, await newer) == ([], 1)
    await other.apply_schedules(NS, "index", [], uid="uid-index", generation=2)
    assert await store.list_schedules(NS) == []
