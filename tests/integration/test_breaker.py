"""Circuit breakers in rows: they open by what ends, admit their probes and no more, and outlive processes."""

import asyncio
from datetime import timedelta

import pytest

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.breaker import Phase, Policy
from milepost_operator.domain.queues import BreakerView
from milepost_operator.domain.runs import QueueIntake, Retry
from milepost_operator.settings import Settings
from tests.integration.engine import NS, Pod, apply_task, launch, started, trigger

Q = "agents"
POLICY = Policy(failures=3, window_seconds=60, open_seconds=30, probes=2)


async def apply(store: PostgresStore, policy: Policy | None = POLICY, generation: int = 1) -> None:
    await store.apply_queue(QueueIntake(NS, Q, "uid-q", generation, 10, breaker=policy))


@pytest.fixture
async def guarded(store: PostgresStore) -> PostgresStore:
    await apply(store)
    await apply_task(store, queue=Q, retry=Retry(max_attempts=1))
    return store


async def pods(store: PostgresStore) -> list[Pod]:
    return [Pod(store, session, await started(store, session)) for session in await launch(store)]


async def breaker(store: PostgresStore) -> BreakerView:
    found = (await store.get_queue(NS, Q)).breaker
    assert found is not None
    return found


async def opened(store: PostgresStore, waiting: int = 5) -> None:
    """Three failures, and runs that wait behind the open breaker."""
    for _ in range(3):
        await trigger(store)
    for pod in await pods(store):
        await pod.fail()
    for _ in range(waiting):
        await trigger(store)


async def later(store: PostgresStore, seconds: float) -> None:
    """As if the breaker had opened so many seconds earlier."""
    move = (
        "update queues set breaker_since = breaker_since - $2::interval, breaker_until = breaker_until - $2::interval"
    )
    await store._db.fetch(move + " where name = $1", Q, timedelta(seconds=seconds))


async def test_failures_open_it_and_nothing_is_admitted(guarded: PostgresStore) -> None:
    await opened(guarded)
    assert await guarded.admit(100) == 0
    found = await breaker(guarded)
    assert found.phase is Phase.OPEN
    assert found.since is not None
    assert found.until == found.since + timedelta(seconds=30)


async def test_no_admission_comes_between_the_failure_and_its_judgement(guarded: PostgresStore) -> None:
    """Whoever admits judges first: no duty has to come in between."""
    for _ in range(3):
        await trigger(guarded)
    for pod in await pods(guarded):
        await trigger(guarded)
        await pod.fail()
    assert await guarded.admit(100) == 0


async def test_it_outlives_every_process(guarded: PostgresStore, settings: Settings) -> None:
    await opened(guarded)
    async with PostgresStore.open(settings) as other:
        assert await other.admit(100) == 0
        assert (await breaker(other)).phase is Phase.OPEN


async def test_as_many_probes_as_it_says_whoever_admits(guarded: PostgresStore, settings: Settings) -> None:
    await opened(guarded, waiting=8)
    assert await guarded.judge_breakers() == 1
    await later(guarded, 31)
    async with PostgresStore.open(settings) as one, PostgresStore.open(settings) as two:
        for _ in range(5):
            await asyncio.gather(*(store.admit(1) for store in (guarded, one, two)))
    assert (await guarded.get_queue(NS, Q)).running == 2
    assert (await breaker(guarded)).phase is Phase.HALF_OPEN


async def test_probes_that_succeed_close_it(guarded: PostgresStore) -> None:
    await opened(guarded)
    await guarded.judge_breakers()
    await later(guarded, 31)
    first, second = await pods(guarded)
    await first.succeed()
    assert await guarded.admit(100) == 0
    assert (await breaker(guarded)).passed == 1
    await second.succeed()
    assert await guarded.admit(100) == 3
    assert (await breaker(guarded)).phase is Phase.CLOSED


async def test_a_probe_that_fails_opens_it_again(guarded: PostgresStore) -> None:
    await opened(guarded)
    await guarded.judge_breakers()
    await later(guarded, 31)
    first, second = await pods(guarded)
    await first.succeed()
    await second.fail()
    assert await guarded.admit(100) == 0
    assert (await breaker(guarded)).phase is Phase.OPEN


async def test_a_probe_lost_to_infrastructure_gives_its_place_back(guarded: PostgresStore) -> None:
    await opened(guarded)
    await guarded.judge_breakers()
    await later(guarded, 31)
    first, second = await pods(guarded)
    await first.fail("crash")
    await guarded._db.fetch("delete from breaker_outcomes")
    assert second.start.attempt == 1
    assert await guarded.admit(100) == 1


async def test_cancels_and_lost_pods_do_not_open_it(guarded: PostgresStore) -> None:
    runs = [(await trigger(guarded)).run_id for _ in range(4)]
    await launch(guarded)
    for run in runs:
        await guarded.cancel_run(run, "alice")
    assert await guarded._db.fetch("select * from breaker_outcomes") == []
    assert await guarded.judge_breakers() == 0


async def test_a_manifest_without_a_breaker_closes_it(guarded: PostgresStore) -> None:
    await opened(guarded)
    assert await guarded.judge_breakers() == 1
    await apply(guarded, None, generation=2)
    assert await guarded.judge_breakers() == 1
    assert (await guarded.get_queue(NS, Q)).breaker is None
    assert await guarded.admit(100) == 5


async def test_queues_without_a_breaker_keep_no_outcomes(store: PostgresStore) -> None:
    await apply(store, None)
    await apply_task(store, queue=Q, retry=Retry(max_attempts=1))
    await trigger(store)
    (pod,) = await pods(store)
    await pod.fail()
    assert await store._db.fetch("select * from breaker_outcomes") == []
