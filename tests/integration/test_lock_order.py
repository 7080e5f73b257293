"""Replicas that queue many runs at once never wait for each other's keys in a circle."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import asyncpg
import pytest

from milepost.wire.pod import Evidence, Failure, SettleRequest, Wait
from milepost_operator.adapters.postgres import database
from milepost_operator.adapters.postgres.errors import translated
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import Ending, QueueIntake
from milepost_operator.domain.states import Reason
from tests.integration.engine import NS, T, apply_task, launch, next_pod, trigger
from tests.integration.locks import waiting_for_locks

Hand: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
KEYS = ("a", "m", "z", "z", "m", "a")
"""Of three runs for each of two replicas, in opposite orders; the one in the middle is held by the test."""


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadlock is an error here, not tried again."""

    async def once(operation: Callable[[], Awaitable[T]]) -> T:
        with translated():
            return await operation()

    monkeypatch.setattr(database, "retrying", once)


async def rest(store: PostgresStore) -> None:
    """As a while after the last admission: keys know of no run that waits."""
    await store._db.fetch("update queue_keys set tasks = '{}'")


async def meet(
    store: PostgresStore, hand: Hand, first: Callable[[], Awaitable[T]], second: Callable[[], Awaitable[T]], key: str
) -> list[T]:
    """Both begin while the key is locked, one after the other, and who waits for it goes on at the same moment."""
    async with hand.transaction():
        await hand.execute("select from queue_keys where key = $1 for update", key)
        one = asyncio.ensure_future(first())
        await waiting_for_locks(store, 1)
        two = asyncio.ensure_future(second())
        waits = asyncio.ensure_future(waiting_for_locks(store, 2))
        await asyncio.wait((two, waits), return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()
    return await asyncio.gather(one, two)


async def test_runs_of_many_keys_that_were_held_are_released(
    store: PostgresStore, other: PostgresStore, hand: Hand
) -> None:
    for key in KEYS:
        await trigger(store, concurrency_key=key)
    await apply_task(store)
    for key in set(KEYS):
        await store._db.fetch("select make_key('default', $1, 'default', $2)", NS, key)

    async def release(replica: PostgresStore) -> list[str]:
        return [row["state"] for row in await replica._db.fetch(Q["release_held"], "default", 3)]

    released = await meet(store, hand, lambda: release(store), lambda: release(other), "m")
    assert released == [["queued"] * 3] * 2


@pytest.mark.parametrize(("keys", "crashed"), [(KEYS, ()), (("m", "y", "z", "z", "z", "y"), (2, 5))])
async def test_runs_of_many_keys_that_suspend_are_queued_at_once(
    store: PostgresStore, other: PostgresStore, hand: Hand, keys: Sequence[str], crashed: Sequence[int]
) -> None:
    """Their waits are over as they begin; a process that is lost beside them queues its run, too."""
    await store.apply_queue(QueueIntake(NS, "wide", "u", 1, 10))
    await apply_task(store, queue="wide")
    pods = []
    for key in keys:
        await trigger(store, concurrency_key=key)
        pods.append(await next_pod(store))
    await rest(store)

    def request(index: int) -> SettleRequest:
        if index in crashed:
            failure = Failure("crash", "Crash", "signal 9", "")
            return SettleRequest(pods[index].fence, "failed", None, failure, Evidence(signal=9))
        return SettleRequest(pods[index].fence, "suspended", waits=[Wait("nap", "timer", seconds=0)])

    async def settle(replica: PostgresStore, which: Sequence[int]) -> list[object]:
        return list(await replica.settle([(pods[index].session, request(index)) for index in which]))

    settled = await meet(store, hand, lambda: settle(store, (0, 1, 2)), lambda: settle(other, (3, 4, 5)), "m")
    assert settled == [["queued"] * 3] * 2


async def test_a_queue_is_paused_while_a_pod_of_it_is_lost(
    store: PostgresStore, other: PostgresStore, hand: Hand
) -> None:
    await store.apply_queue(QueueIntake(NS, "wide", "u", 1, 10))
    await apply_task(store, queue="wide")
    for _ in range(2):
        await trigger(store)
    await launch(store)
    await rest(store)
    pods = await store._db.fetch("select pod_id from pods order by run_id")
    epoch = await store.take_epoch("test")
    lost = Ending(Reason.POD_LOST, "gone", counted=False, infra=True, started=False)

    async def lose() -> int:
        await other.pod_ended(epoch, pods[1]["pod_id"], None, lost)
        return 0

    assert await meet(store, hand, lambda: store.pause_queue(NS, "wide", "me"), lose, "") == [2, 0]
    assert {row["state"] for row in await store._db.fetch("select state from runs")} == {"queued"}
