"""Every limit alone and together, with several replicas that claim at once."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import Rate, Semaphore
from milepost_operator.settings import Settings
from tests.integration.engine import NS, apply_task, eventually
from tests.integration.limits import claim, enqueue, finish, keys_in_order, queue, taken


@pytest.fixture
async def replicas(settings: Settings) -> AsyncIterator[list[PostgresStore]]:
    small = settings.model_copy(update={"database_pool": 3})
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(PostgresStore.open(small)) for _ in range(6)]


async def claims(replicas: list[PostgresStore], queue: str = "q", count: int = 7, turns: int = 4) -> int:
    """Each replica claims, several times, at once with the others."""

    async def one(store: PostgresStore) -> int:
        return sum([await claim(store, count, queue) for _ in range(turns)])

    return sum(await asyncio.gather(*(one(store) for store in replicas)))


async def test_a_queue_admits_no_more_than_its_limit(store: PostgresStore, replicas: list[PostgresStore]) -> None:
    await apply_task(store, queue="q")
    await queue(store, concurrency=5)
    await enqueue(store, 40)
    assert await claims(replicas) == 5
    assert await claims(replicas) == 0
    assert await finish(store, 3) == 3
    assert await claims(replicas) == 3
    assert await taken(store) == 5


async def test_an_override_goes_before_the_manifest(store: PostgresStore, replicas: list[PostgresStore]) -> None:
    await apply_task(store, queue="q")
    await queue(store, concurrency=5)
    await enqueue(store, 40)
    await store._db.fetch("update queues set override_concurrency = 2")
    assert await claims(replicas) == 2
    await store._db.fetch("update queues set override_concurrency = 9")
    assert await claims(replicas) == 7
    await store._db.fetch("update queues set override_concurrency = 0")
    await finish(store, 9)
    assert await claims(replicas) == 0
    await store._db.fetch("update queues set override_concurrency = null")
    assert await claims(replicas) == 5


async def test_a_lowered_limit_ends_nothing_and_admits_nothing(store: PostgresStore) -> None:
    await apply_task(store, queue="q")
    await queue(store, concurrency=6)
    await enqueue(store, 20)
    assert await claim(store) == 6
    await queue(store, generation=2, concurrency=2)
    assert await claim(store) == 0
    assert await taken(store) == 6
    await finish(store, 5)
    assert await claim(store) == 1


@pytest.mark.parametrize("column", ["paused", "spec_paused"])
async def test_a_paused_queue_admits_nothing(store: PostgresStore, column: str) -> None:
    await apply_task(store, queue="q")
    await queue(store)
    await enqueue(store, 3)
    await store._db.fetch(f"update queues set {column} = true")
    assert await store.admit(10) == 0
    assert await claim(store) == 0
    await store._db.fetch(f"update queues set {column} = false")
    assert await store.admit(10) == 3


async def test_a_manifest_pauses_and_resumes(store: PostgresStore) -> None:
    await apply_task(store, queue="q")
    await queue(store, paused=True)
    await enqueue(store, 3)
    assert await store.admit(10) == 0
    await queue(store, generation=2)
    assert await store.admit(10) == 3


async def test_each_key_has_its_limit(store: PostgresStore, replicas: list[PostgresStore]) -> None:
    await apply_task(store, queue="q")
    await queue(store, key_concurrency=2)
    for key in ("a", "b", ""):
        await enqueue(store, 10, key=key)
    assert await claims(replicas) == 6
    assert Counter(await keys_in_order(store)) == {"a": 2, "b": 2, "": 2}
    await finish(store, 1, key="a")
    assert await claims(replicas) == 1
    await queue(store, generation=2, key_concurrency=4)
    assert await claims(replicas) == 6
    await queue(store, generation=3, key_concurrency=1)
    assert await claims(replicas) == 0


async def test_a_task_has_its_limit_in_all_queues_together(store: PostgresStore, replicas: list[PostgresStore]) -> None:
    for name in ("q", "p"):
        await queue(store, name)
        await enqueue(store, 20, queue=name)
        await enqueue(store, 5, queue=name, task="other")
    await apply_task(store, queue="q", concurrency=3)
    await apply_task(store, "other", queue="q")
    await asyncio.gather(claims(replicas[:3], "q"), claims(replicas[3:], "p"))
    for _ in range(3):
        await claims(replicas[:1], "q")
        await claims(replicas[:1], "p")
    assert await taken(store, "task = 'index'") == 3
    assert await taken(store, "task = 'other'") == 10
    await apply_task(store, queue="q", concurrency=1, generation=2)
    await finish(store, 2, task="index")
    assert await claims(replicas) == 0
    await finish(store, 1, task="index")
    assert await claims(replicas) == 1


async def test_a_semaphore_counts_units_of_all_its_tasks(store: PostgresStore, replicas: list[PostgresStore]) -> None:
    for name in ("q", "p"):
        await queue(store, name)
    await apply_task(store, "big", queue="q", semaphores=[Semaphore("db", 9, 3)])
    await apply_task(store, "small", queue="p", semaphores=[Semaphore("db", 7)])
    await enqueue(store, 10, task="big")
    await enqueue(store, 10, queue="p", task="small")
    assert await claims(replicas[:1]) == 2  # six of the smaller limit, seven
    assert await claims(replicas, "p") == 1
    await finish(store, 1, task="big")
    await asyncio.gather(claims(replicas[:3], "q"), claims(replicas[3:], "p"))
    held = 3 * await taken(store, "task = 'big'") + await taken(store, "task = 'small'")
    assert 5 <= held <= 7
    # what is at work keeps what it took when its Task says something else now
    await apply_task(store, "big", queue="q", generation=2)
    await finish(store, task="small")
    used = 3 * await taken(store, "task = 'big' and semaphores is not null")
    assert await claims(replicas, "p") == 7 - used


async def test_units_that_the_first_in_line_lacks_go_to_nobody_behind_it(store: PostgresStore) -> None:
    await queue(store)
    await apply_task(store, "big", queue="q", semaphores=[Semaphore("db", 4, 4)])
    await apply_task(store, "small", queue="q", semaphores=[Semaphore("db", 4)])
    await enqueue(store, 2, task="small")
    assert await claim(store) == 2
    await enqueue(store, 1, task="big")
    await enqueue(store, 5, task="small")
    assert await claim(store) == 0
    await finish(store)
    assert await claim(store) == 1
    assert await taken(store, "task = 'big'") == 1


async def test_the_global_limit_spans_queues(settings: Settings) -> None:
    limited = settings.model_copy(update={"global_concurrency": 7})
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(PostgresStore.open(limited)) for _ in range(4)]
        first = stores[0]
        await apply_task(first)
        for name in ("a", "b", "c"):
            await queue(first, name)
            await enqueue(first, 20, queue=name)
        for _ in range(3):
            await asyncio.gather(*(store.admit(5) for store in stores))
        assert await taken(first) == 7
        await finish(first, 4)
        await asyncio.gather(*(store.admit(5) for store in stores))
        assert await taken(first) == 7
        assert {k: v for k, v in (await first.violations()).items() if v} == {}


RATE = Rate(5, 60)
AGO = "set rate.at = (s.rate).at - $1::text::interval"


async def test_a_rate_admits_its_limit_and_then_waits(store: PostgresStore, replicas: list[PostgresStore]) -> None:
    await apply_task(store, queue="q")
    await queue(store, rate=RATE)
    await enqueue(store, 30)
    assert await claims(replicas) == 5
    await finish(store)  # what ends gives no token back
    assert await claims(replicas) == 0
    await store._db.fetch(f"update queue_states s {AGO}", "59 seconds")
    assert await claims(replicas) == 0  # its slice still lies in the window
    await store._db.fetch(f"update queue_states s {AGO}", "2 seconds")
    assert await claims(replicas) == 5


async def test_a_rate_outlives_a_restart_and_a_clock_set_back(store: PostgresStore, settings: Settings) -> None:
    await apply_task(store, queue="q")
    await queue(store, rate=RATE)
    await enqueue(store, 30)
    assert await claim(store, 3) == 3
    async with PostgresStore.open(settings) as other:
        assert await claim(other) == 2
        # the state's newest time lies ahead: as after a clock that was set back
        await store._db.fetch(f"update queue_states s {AGO}", "-1 hours")
        assert await claim(other) == 0
        await store._db.fetch(f"update queue_states s {AGO}", "1 hours 61 seconds")
        assert await claim(other) == 5


async def test_a_bucket_starts_full_and_fills_at_its_rate(store: PostgresStore) -> None:
    await apply_task(store, queue="q")
    await queue(store, rate=Rate(1, 60, "bucket", 4))
    await enqueue(store, 30)
    assert await claim(store) == 4
    await store._db.fetch(f"update queue_states s {AGO}", "121 seconds")
    assert await claim(store) == 2
    await store._db.fetch(f"update queue_states s {AGO}", "1 days")
    assert await claim(store) == 4


async def test_cost_is_what_a_rate_counts(store: PostgresStore) -> None:
    await apply_task(store, queue="q")
    await queue(store, rate=RATE)
    await enqueue(store, 1, cost=3)
    await enqueue(store, 1, cost=4)
    await enqueue(store, 5, cost=1)
    assert await claim(store) == 1  # four do not fit, and nothing that comes after may take the two that are left
    await store._db.fetch(f"update queue_states s {AGO}", "61 seconds")
    assert await claim(store) == 2


async def test_each_key_has_its_rate(store: PostgresStore, replicas: list[PostgresStore]) -> None:
    await apply_task(store, queue="q")
    await queue(store, key_rate=Rate(2, 60))
    for key in ("a", "b"):
        await enqueue(store, 10, key=key)
    assert await claims(replicas) == 4
    assert Counter(await keys_in_order(store)) == {"a": 2, "b": 2}
    await store._db.fetch(
        "update queue_keys s set rate.at = (s.rate).at - interval '61 seconds', opens_at = now() where key = 'a'"
    )
    assert await claims(replicas) == 2


@pytest.mark.parametrize("limit", ["rate", "key_rate"])
@pytest.mark.parametrize("cause", ["resume", "infra"])
async def test_a_resume_needs_no_token(store: PostgresStore, cause: str, limit: str) -> None:
    await apply_task(store, queue="q")
    await queue(store, **{limit: Rate(1, 60)})
    await enqueue(store, 30, key="a")
    await enqueue(store, 3, key="a", cause=cause)
    assert await claim(store) == 4
    await enqueue(store, 1, key="a", cause=cause)
    assert await claim(store) == 1
    assert await claim(store) == 0


async def test_all_limits_together_while_they_change(  # noqa: C901  three actors and their checks
    store: PostgresStore, replicas: list[PostgresStore]
) -> None:
    rng = random.Random(7)
    await queue(store, concurrency=12, key_concurrency=4, rate=Rate(10_000, 60))
    await apply_task(store, "x", queue="q", concurrency=6)
    await apply_task(store, "y", queue="q", semaphores=[Semaphore("s", 8, 2)])
    await apply_task(store, "z", queue="q")
    for task in "xyz":
        for key in "abcd":
            await enqueue(store, 60, task=task, key=key)
    stop = asyncio.Event()
    over: list[str] = []

    async def claimer(each: PostgresStore) -> None:
        while not stop.is_set():
            await claim(each, rng.randint(1, 9))

    async def watcher() -> None:
        checks = {
            "queue": ("true", 12),
            "task": ("task = 'x'", 6),
            "semaphore": ("task = 'y'", 4),
            "key": ("concurrency_key = 'a'", 4),
        }
        while not stop.is_set():
            for name, (where, limit) in checks.items():
                if await taken(store, where) > limit:
                    over.append(name)
            await finish(store, rng.randint(1, 6))

    async def resizer() -> None:
        for generation in range(2, 14):
            await asyncio.sleep(0.15)
            await queue(
                store,
                generation=generation,
                concurrency=rng.randint(1, 12),
                key_concurrency=rng.randint(1, 4),
                rate=Rate(10_000, 60),
            )
            await apply_task(store, "x", queue="q", concurrency=rng.randint(1, 6), generation=generation)
        stop.set()

    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        for each in replicas:
            group.create_task(claimer(each))
        group.create_task(watcher())
        group.create_task(resizer())
    assert over == []

    async def all_over() -> bool:  # a key that was found empty is looked at again a moment later
        await claim(store)
        await finish(store)
        return await store._db.fetch("select 1 from runs where state <> 'succeeded' limit 1") == []

    await eventually(all_over, 30)


async def test_a_claim_that_breaks_off_leaks_nothing(store: PostgresStore, settings: Settings) -> None:
    await apply_task(store, queue="q")
    await queue(store, concurrency=3, rate=Rate(3, 3600))
    await enqueue(store, 10)
    other = await asyncpg.connect(settings.dsn, server_settings={"search_path": "milepost"})
    async with asyncio.timeout(10):
        transaction = other.transaction()
        await transaction.start()
        assert await other.fetchval("select admitted from admit('default', $1, 'q', 10)", NS) == 3
        assert await claim(store) == 0  # the other one has the queue
        other.terminate()
        await eventually(lambda: claim(store))
    assert await taken(store) == 3


async def test_rows_that_others_write_are_counted(store: PostgresStore) -> None:
    await apply_task(store, queue="q")
    await queue(store, concurrency=4)
    await enqueue(store, 10)
    assert await claim(store, 1) == 1
    await enqueue(store, 1, key="k")
    await store._db.fetch("update runs set state = 'suspended', suspended_at = now() where state = 'admitted'")
    assert await claim(store, 3) == 3
    await store._db.fetch("update runs set state = 'admitted', suspended_at = null where state = 'suspended'")
    await store._db.fetch(
        "delete from runs where run_id = (select run_id from runs where state = 'admitted' and attempt = 1 limit 1)"
    )
    await store._db.fetch("delete from pods p where not exists (select from runs r where r.run_id = p.run_id)")
    assert await claim(store) == 1
    assert await taken(store) == 4
