"""Order: keys take turns, a bump comes first, priority ages, and what comes before the mark is found."""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milepost_operator.adapters.postgres.migrate import migrate
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import Rate
from milepost_operator.settings import Settings
from tests.integration.conftest import _with_database
from tests.integration.engine import NS, apply_task, trigger
from tests.integration.limits import claim, enqueue, finish, keys_in_order, queue, taken

Backlog = dict[str, int]


def unfair(order: Sequence[str], backlog: Backlog) -> list[str]:
    """Keys that were admitted more than twice between two admissions of another that had work all the while."""
    found = []
    for key in backlog:
        places = [i for i, each in enumerate(order) if each == key]
        for before, after in zip([-1, *places], places, strict=False):
            others = Counter(order[before + 1 : after])
            found += [f"{other} {n} times before {key}" for other, n in others.items() if n > 2]
    return found


@pytest.mark.timeout(300)
def test_no_key_is_admitted_more_than_twice_between_two_of_another(postgres_uri: str) -> None:
    """Backlogs, batches and arrivals by Hypothesis; every key waits from the beginning or from when it arrives."""
    asyncio.run(_database(postgres_uri, "fairness"))
    config = Settings(database_url=_with_database(postgres_uri, "fairness"), database_pool=3)
    sizes = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 12), min_size=2, max_size=8)

    @settings(
        max_examples=int(os.environ.get("MILEPOST_FAIRNESS_EXAMPLES", "20")),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(sizes, st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 3))
    def holds(backlog: Backlog, batches: list[int], limit: int) -> None:
        order = asyncio.run(_drain(config, backlog, batches, limit))
        assert Counter(order) == backlog
        assert unfair(order, backlog) == []

    holds()


async def _database(uri: str, name: str) -> None:
    import asyncpg  # noqa: PLC0415

    admin = await asyncpg.connect(uri)
    await admin.execute(f"drop database if exists {name} with (force)")
    await admin.execute(f"create database {name}")
    await admin.close()
    await migrate(Settings(database_url=_with_database(uri, name)))


async def _drain(config: Settings, backlog: Backlog, batches: list[int], limit: int) -> list[str]:
    async with PostgresStore.open(config) as store:
        await store._db.fetch(
            "truncate runs, run_heads, attempts, run_events, pods, queues, tasks, queue_states, queue_keys,"
            " queue_key_names, slot_returns cascade"
        )
        await apply_task(store, queue="q")
        await queue(store, concurrency=limit or None)
        for key, count in backlog.items():
            await enqueue(store, count, key=key)
        turn, empty = 0, 0
        while empty < 2:
            got = await claim(store, batches[turn % len(batches)])
            turn += 1
            if limit:
                await finish(store)
            empty = 0 if got else empty + 1
        assert {k: v for k, v in (await store.violations()).items() if v} == {}
        return await keys_in_order(store)


async def test_a_new_key_does_not_wait_behind_a_backlog(store: PostgresStore) -> None:
    await apply_task(store, queue="q")
    await queue(store)
    await enqueue(store, 300, key="old")
    assert await claim(store, 100) == 100
    await enqueue(store, 3, key="new")
    assert await claim(store, 6) == 6
    assert Counter((await keys_in_order(store))[-6:]) == {"old": 3, "new": 3}


async def test_a_key_that_rested_does_not_save_up_turns(store: PostgresStore) -> None:
    await apply_task(store, queue="q")
    await queue(store)
    await enqueue(store, 2, key="rested")
    assert await claim(store) == 2
    await enqueue(store, 100, key="busy")
    assert await claim(store, 50) == 50
    await enqueue(store, 50, key="rested")
    assert await claim(store, 10) == 10
    assert Counter((await keys_in_order(store))[-10:])["rested"] in {4, 5, 6}


async def test_key_comes_before_priority(store: PostgresStore) -> None:
    await apply_task(store, queue="q")
    await queue(store)
    await enqueue(store, 20, key="low", priority=-50)
    await enqueue(store, 20, key="high", priority=100)
    assert await claim(store, 10) == 10
    assert Counter(await keys_in_order(store)) == {"low": 5, "high": 5}


async def test_within_a_key_priority_counts_as_age(store: PostgresStore) -> None:
    await apply_task(store, queue="q")
    await queue(store)
    await enqueue(store, 1, priority=0)
    await enqueue(store, 1, priority=-1)
    await enqueue(store, 1, priority=2)
    order = []
    for _ in range(3):
        await claim(store, 1)
        order += await store._db.fetch("select priority from runs where state = 'admitted'")
        await finish(store)
    assert [row[0] for row in order] == [2, 0, -1]


async def test_low_priority_is_admitted_at_last(store: PostgresStore) -> None:
    """A stream of higher priority never ends; after its steps of 60 s the low one is the oldest all the same."""
    await apply_task(store, queue="q")
    await queue(store, concurrency=1)
    await enqueue(store, 1, priority=-3)
    waited = 0
    while not await taken(store, "priority = -3"):
        await finish(store)
        await enqueue(store, 2, priority=0)
        # thirty seconds pass
        await store._db.fetch(
            "update runs set ready_at = ready_at - interval '30 s', order_at = order_at - interval '30 s'"
            " where state = 'queued'",
        )
        # what moved behind the engine's back is found by its next scan from the beginning: now
        await store._db.fetch("update queue_keys set mark_at = '-infinity', swept_at = '-infinity'")
        await claim(store)
        waited += 30
        assert waited < 600, "a low priority starves"
    assert waited >= 180


async def test_a_bump_goes_to_the_front_of_the_whole_queue_once(store: PostgresStore) -> None:
    await apply_task(store, queue="q")
    await queue(store)
    for key in "abc":
        await enqueue(store, 10, key=key)
    await claim(store, 9)
    query = """update runs set bumped_at = clock_timestamp() where run_id in (
        select run_id from runs where state = 'queued' and concurrency_key = 'c' order by order_at desc limit 2)
        returning run_id"""
    bumped = {row[0] for row in await store._db.fetch(query)}
    assert await store.admit(2) == 2
    rows = await store._db.fetch(
        "select run_id, bumped_at from runs where run_id = any($1) and state = 'admitted'", bumped
    )
    assert {row[0] for row in rows} == bumped
    assert {row[1] for row in rows} == {None}


async def test_a_bump_passes_no_limit(store: PostgresStore) -> None:
    await apply_task(store, queue="q")
    await queue(store, key_concurrency=1, rate=Rate(2, 60))
    await enqueue(store, 3, key="a")
    await enqueue(store, 3, key="b")
    await store._db.fetch("update runs set bumped_at = clock_timestamp() where concurrency_key = 'a'")
    assert await claim(store) == 2
    assert Counter(await keys_in_order(store)) == {"a": 1, "b": 1}
    assert await claim(store) == 0


@pytest.mark.parametrize("how", ["priority", "bump", "requeue", "late"])
async def test_what_comes_before_the_mark_is_claimed_within_100_ms(store: PostgresStore, how: str) -> None:
    await apply_task(store, queue="q")
    await queue(store)
    await enqueue(store, 400)
    await enqueue(store, 1, priority=90, cause="retry")
    await store._db.fetch("update runs set state = 'held', held_at = now(), reason = 'x' where priority = 90")
    for _ in range(5):
        await claim(store, 5)
    if how == "priority":
        await enqueue(store, 1, priority=100)
    elif how == "bump":
        await store._db.fetch(
            "update runs set bumped_at = now(), priority = 100 where run_id ="
            " (select run_id from runs where state = 'queued' order by order_at desc limit 1)",
        )
    elif how == "requeue":
        await store._db.fetch(
            "update runs set state = 'queued', held_at = null, reason = null, priority = 100 where priority = 90"
        )
    else:  # committed late: nobody could tell of it when the mark passed
        await store._db.fetch("alter table runs disable trigger runs_inserted")
        await enqueue(store, 1, priority=100)
        await store._db.fetch("alter table runs enable trigger runs_inserted")
        await asyncio.sleep(0.09)
    await claim(store, 5)
    assert await taken(store, "priority = 100") == 1


async def test_runs_whose_key_was_not_told_are_found(store: PostgresStore) -> None:
    await apply_task(store, queue="q")
    await queue(store)
    await store._db.fetch("alter table runs disable trigger runs_inserted")
    await enqueue(store, 5, key="a")
    await enqueue(store, 5, key="b", task="index")
    await store._db.fetch("alter table runs enable trigger runs_inserted")
    assert await claim(store) == 0
    assert await store.admit(20) == 10


async def test_an_emptied_key_opens_with_the_next_run(store: PostgresStore) -> None:
    await apply_task(store, queue="q")
    await queue(store)
    for i in range(30):
        await enqueue(store, 1, key=f"k{i}")
    assert await claim(store) == 30
    rest = await store._db.fetch("select count(*) from queue_keys where emptied and not open")
    assert rest[0][0] == 30
    await enqueue(store, 1, key="k3")
    assert await claim(store) == 1
    await asyncio.sleep(0.11)
    await store.admit(100)
    rest = await store._db.fetch("select count(*) from queue_keys where tasks = '{}'")
    assert rest[0][0] >= 29
    await enqueue(store, 1, key="k7")
    assert await claim(store) == 1
    await store._db.fetch("update queue_keys set touched_at = now() - interval '3 days'")
    await finish(store)
    await store._db.fetch("delete from slot_returns")
    await store._db.fetch("update queue_keys set running = 0")
    await store._db.fetch("update queue_states set running = 0")
    await store._db.fetch("update queue_keys set tasks = '{}', emptied = false, opens_at = null")
    store._upkeep.forget_at = 0
    await store.admit(1)
    assert (await store._db.fetch("select count(*) from queue_keys"))[0][0] == 0


async def test_a_full_key_with_most_of_the_backlog_holds_up_nobody(store: PostgresStore) -> None:
    await apply_task(store, queue="q")
    await queue(store, key_concurrency=2)
    await enqueue(store, 3000, key="full")
    for i in range(30):
        await enqueue(store, 10, key=f"k{i}")
    assert await claim(store) == 62
    for _ in range(4):
        assert await finish(store) == 62
        assert await claim(store) == 62
    assert await taken(store, "concurrency_key = 'full'") == 2


async def test_a_run_of_a_deleted_task_is_held_and_takes_no_place(store: PostgresStore) -> None:
    await apply_task(store, queue="q")
    await queue(store, concurrency=2)
    await trigger(store)
    await store.remove_task(NS, "index")
    await store._db.fetch("update runs set state = 'queued', reason = null, held_at = null")
    await apply_task(store, "other", queue="q")
    await enqueue(store, 3, task="other")
    assert await claim(store) == 2
    rows = await store._db.fetch("select reason from runs where state = 'held'")
    assert [row[0] for row in rows] == ["TaskNotFound"]
