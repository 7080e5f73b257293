"""Everything at once, at random: what replicas, pods and people do, against the invariants and a small model."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import UUID

import pytest

from milepost.wire.pod import HeartbeatRequest
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import ConflictError, DeposedError, ForbiddenError, GoneError, MilepostError
from milepost_operator.domain.runs import Ending, PodSession, QueueIntake, Retry
from milepost_operator.domain.states import TERMINAL, Reason, RunState
from milepost_operator.settings import Settings
from tests.integration.engine import NS, Pod, apply_task, started, trigger
from tests.seeds import SEED

SECONDS = 8.0
LIMIT = 3
LOST = Ending(Reason.POD_LOST, "gone", counted=False, infra=True)
EXPECTED = (ConflictError, DeposedError, ForbiddenError, GoneError)
"""What one replica may be told because another was quicker."""


class Chaos:
    """The world: replicas of the store, pods that are at work, and what was promised to whom."""

    def __init__(self, stores: list[PostgresStore], rng: random.Random) -> None:
        self.stores = stores
        self.rng = rng
        self.pods: list[Pod] = []
        self.sessions: list[PodSession] = []
        self.acknowledged: dict[UUID, dict[str, str]] = {}
        self.keys: dict[str, set[UUID]] = {}
        self.ended: dict[UUID, str] = {}
        self.epoch = 0
        self.told: Counter[str] = Counter()
        self.unexpected: list[str] = []

    @property
    def store(self) -> PostgresStore:
        return self.rng.choice(self.stores)

    async def worker(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        deeds: list[tuple[int, Callable[[], Awaitable[object]]]] = [
            (3, self.make), (1, self.make_by_object), (6, self.admit), (6, self.launch), (10, self.start),
            (12, self.write), (4, self.beat), (6, self.settle), (2, self.lose), (2, self.reap), (2, self.cancel),
            (1, self.depose), (1, self.task_goes), (1, self.queue_goes), (1, self.pulse), (1, self.check),
            (2, self.project), (2, self.close),
        ]  # fmt: skip
        weights = [weight for weight, _ in deeds]
        while loop.time() < until:
            (deed,) = self.rng.choices([d for _, d in deeds], weights)
            try:
                await deed()
                self.told[deed.__name__] += 1
            except EXPECTED as error:
                self.told[f"{deed.__name__}: {error.code}"] += 1
            except Exception as error:  # noqa: BLE001  told at the end, with the seed
                self.unexpected.append(f"{deed.__name__}: {error!r}")

    def own(self, pod: Pod) -> Pod:
        """The same pod, through any replica."""
        return Pod(self.store, pod.session, pod.start)

    async def make(self) -> None:
        key = f"k{self.rng.randrange(400)}"
        made = await trigger(self.store, idempotency_key=key)
        self.keys.setdefault(key, set()).add(made.run_id)
        self.acknowledged.setdefault(made.run_id, {})

    async def make_by_object(self) -> None:
        number = self.rng.randrange(200)
        twice = [trigger(s, name=f"o{number}", intent_uid=f"u{number}", origin="kubectl") for s in self.stores[:2]]
        made = await asyncio.gather(*twice)
        assert len({m.run_id for m in made}) == 1, made
        self.acknowledged.setdefault(made[0].run_id, {})

    async def admit(self) -> None:
        await self.store.promote(20)
        await self.store.admit(20)

    async def launch(self) -> None:
        store, epoch = self.store, self.epoch
        for order in await store.take_wanted(epoch, 5):
            if await store.launched(epoch, order.pod_id, "job"):
                name = f"mp-{order.pod_id}-abcde"
                self.sessions.append(await store.open_session(order.pod_id, NS, f"uid-{order.pod_id}", name))

    async def start(self) -> None:
        if self.sessions:
            session = self.rng.choice(self.sessions[-6:])
            store = self.store
            start = await started(store, session)
            known = self.acknowledged.setdefault(UUID(start.run_id), {})
            promised = dict(known)
            pod = Pod(store, session, start)
            read = dict(await pod.records())
            lacking = {k: v for k, v in promised.items() if read.get(k) != v}
            assert not lacking, f"attempt {start.attempt} of {start.run_id} lacks {lacking}"
            self.pods = [*self.pods[-30:], pod]

    async def write(self) -> None:
        if self.pods:
            pod = self.own(self.rng.choice(self.pods[-8:]))
            key, copy = f"s{self.rng.randrange(1 << 30)}", self.own(pod)
            value = str(pod.start.attempt)
            answers = await asyncio.gather(
                *[p.write(key, value, write_id=key) for p in (pod, copy)[: self.rng.choice((1, 2))]]
            )
            if any(isinstance(a, list) for a in answers):
                self.acknowledged[UUID(pod.start.run_id)][key] = value

    async def beat(self) -> None:
        if self.pods:
            pod = self.own(self.rng.choice(self.pods[-8:]))
            await pod.store.beat([(pod.session, HeartbeatRequest(pod.fence, 0.5))])

    async def settle(self) -> None:
        if self.pods:
            pod = self.own(self.rng.choice(self.pods[-8:]))
            await (pod.succeed() if self.rng.random() < 0.5 else pod.fail())

    async def lose(self) -> None:
        if self.sessions:
            await self.store.pod_ended(self.epoch, self.rng.choice(self.sessions[-8:]).pod_id, None, LOST)

    async def reap(self) -> None:
        await self.store.reap(20)

    async def cancel(self) -> None:
        runs = list(self.acknowledged)
        if runs:
            await self.store.cancel_run(self.rng.choice(runs[-10:]), "chaos")

    async def depose(self) -> None:
        self.epoch = max(self.epoch, await self.store.take_epoch("chaos"))

    async def task_goes(self) -> None:
        await self.store.remove_task(NS, "index")
        await self.task_comes()

    async def task_comes(self) -> None:
        await apply_task(self.store, queue="q", retry=Retry(max_attempts=3, min_seconds=0.0, max_seconds=0.0))

    async def queue_goes(self) -> None:
        await self.store.remove_queue(NS, "q")
        await self.queue_comes()

    async def queue_comes(self) -> None:
        await self.store.apply_queue(QueueIntake(NS, "q", f"u{self.rng.random()}", 1, LIMIT))

    async def pulse(self) -> None:
        await self.store.pulse()

    async def project(self) -> None:
        for one in await self.store.due(20, 15):
            await self.store.projected(one.view.run_id, one.view.rev, one.cr_uid or f"cr-{one.view.run_id}", 100)

    async def close(self) -> None:
        for row in await self.store.open_pods():
            if row.state == "closing":
                await self.store.close_pod(row.pod_id)

    async def check(self) -> None:
        """Terminal is final, and no moment has more slots than the limit."""
        for row in await self.store._db.fetch("select run_id, name, state from runs"):
            before = self.ended.get(row["run_id"])
            assert before in {None, row["state"]}, f"{row['name']} was {before}, is {row['state']}"
            if row["state"] in TERMINAL:
                self.ended[row["run_id"]] = row["state"]
        query = "select count(*) from runs where state in ('admitted', 'running', 'cancelling')"
        (row,) = await self.store._db.fetch(query)
        assert row[0] <= LIMIT, f"{row[0]} slots of {LIMIT}"

    async def drain(self) -> None:
        """No fault any more: everything must come to its end."""
        await self.queue_comes()
        await self.task_comes()
        await self.depose()
        async with asyncio.timeout(40):
            while await self.store._db.fetch("select 1 from runs where finished_at is null limit 1"):
                for deed in (self.pulse, self.admit, self.launch, self.reap, self.close):
                    await deed()
                for session in self.sessions[-LIMIT * 4 :]:
                    try:
                        await Pod(self.store, session, await started(self.store, session)).succeed()
                    except MilepostError:
                        continue


@pytest.fixture
async def stores(settings: Settings) -> AsyncIterator[list[PostgresStore]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(PostgresStore.open(settings)) for _ in range(3)]


async def test_whatever_happens_at_once_nothing_is_lost_doubled_or_stuck(
    stores: list[PostgresStore], record_property: Callable[[str, object], None]
) -> None:
    chaos = Chaos(stores, random.Random(SEED))
    await chaos.queue_comes()
    await chaos.task_comes()
    await chaos.depose()
    until = asyncio.get_running_loop().time() + SECONDS
    await asyncio.gather(*[chaos.worker(until) for _ in range(8)])
    record_property("told", dict(chaos.told))
    assert chaos.unexpected == []
    await chaos.check()
    await chaos.drain()
    assert {k: v for k, v in (await stores[0].violations()).items() if v} == {}
    assert [runs for runs in chaos.keys.values() if len(runs) != 1] == []
    for run_id, promised in chaos.acknowledged.items():
        rows = await stores[0]._db.fetch("select key, value from records where run_id = $1", run_id)
        kept = {row["key"]: row["value"] for row in rows}
        assert promised.items() <= kept.items()
        assert (await stores[0].get_run(NS, str(run_id))).state in {
            RunState.SUCCEEDED,
            RunState.FAILED,
            RunState.CANCELLED,
        }
