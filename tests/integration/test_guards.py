"""Rules that only a mistake of ours would break: each has a planted bug that its test has to notice (tests/mutants)."""

import asyncio

import asyncpg
import pytest

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import QueueIntake
from milepost_operator.settings import Settings
from tests.integration.engine import NS, Pod, apply_task, launch, next_pod, started, trigger


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
async def test_a_run_that_has_ended_stays_as_it_ended(store: PostgresStore, outcome: str) -> None:
    await apply_task(store)
    run = await trigger(store)
    pod = await next_pod(store)
    await (pod.succeed() if outcome == "succeeded" else pod.fail("fatal"))
    before = await store.get_run(NS, run.name)
    await store.cancel_run(run.run_id, "somebody late")
    await store.reap(100)
    await store.promote(100)
    assert await store.admit(100) == 0
    assert (await store.get_run(NS, run.name), before.state) == (before, outcome)


async def two_queues(store: PostgresStore) -> None:
    for name in ("one", "two"):
        await store.apply_queue(QueueIntake(NS, name, f"uid-{name}", 1, None))
        await apply_task(store, f"task-{name}", queue=name)
        for _ in range(4):
            await trigger(store, task=f"task-{name}")


async def test_two_queues_under_one_limit_count_after_the_lock(store: PostgresStore, settings: Settings) -> None:
    limited = settings.model_copy(update={"global_concurrency": 3})
    async with PostgresStore.open(limited) as other:
        assert await other.admit(100) == 0  # no work yet: the limit is known from here on
        await two_queues(store)
        hand = await asyncpg.connect(settings.dsn, server_settings={"search_path": "milepost"})
        try:
            async with hand.transaction():
                taken = await hand.fetchval("select admitted from admit($1, $2, 'one', 10)", settings.cluster, NS)
                late = asyncio.create_task(other.admit_queue(NS, "two", 10))
                waits = (
                    "select count(*) from pg_stat_activity"
                    " where wait_event_type = 'Lock' and datname = current_database()"
                )
                async with asyncio.timeout(10):
                    while not await hand.fetchval(waits):  # noqa: ASYNC110  Postgres tells nobody
                        await asyncio.sleep(0.01)
        finally:
            await hand.close()
        assert (taken, await late) == (3, 0)


async def test_a_rate_outlives_a_restart(store: PostgresStore, settings: Settings) -> None:
    await store.apply_queue(QueueIntake(NS, "slow", "uid", 1, None))
    rate = '{"limit": 3, "periodSeconds": 600, "algorithm": "window"}'
    await store._db.fetch("update queues set rate = $1 where name = 'slow'", rate)
    await apply_task(store, queue="slow")
    for _ in range(2):
        await trigger(store)
    assert await store.admit(100) == 2
    for _ in range(4):
        await trigger(store)
    async with PostgresStore.open(settings) as fresh:
        admitted = [await fresh.admit(100) for _ in range(3)]
    assert sum(admitted) == 1


async def test_an_end_frees_one_slot(store: PostgresStore) -> None:
    await store.apply_queue(QueueIntake(NS, "small", "uid", 1, 2))
    await apply_task(store, queue="small")
    for _ in range(6):
        await trigger(store)
    first, second = await launch(store)
    await Pod(store, first, await started(store, first)).succeed()
    await Pod(store, second, await started(store, second)).write("at work")
    assert await store.admit(100) == 1
    assert await store.admit(100) == 0
    held = await store._db.fetch("select count(*) as n from runs where state in ('admitted', 'running', 'cancelling')")
    assert held[0]["n"] == 2
