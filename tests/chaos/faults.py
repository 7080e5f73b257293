"""The faults, by seeded schedule: lanes that run side by side, so that faults meet each other too."""

import asyncio
import random
import signal
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import asyncpg

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import UnavailableError
from tests.chaos.apis import Apis
from tests.chaos.config import APIS, LEASE, NAMESPACE, QUEUES, Options, queue_intake
from tests.chaos.database import Database
from tests.chaos.launcher import Launcher
from tests.chaos.nodes import Nodes
from tests.chaos.proxy import Proxy

BETWEEN_FAULTS = 2
PATIENCE_SECONDS = 60.0

Fault = Callable[[random.Random], Awaitable[None]]
DOWN = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, UnavailableError)


@dataclass
class Tally:
    """`at_work`: how many runs were at work at each hit of a fault that found any."""

    injected: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    at_work: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    notes: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def count(self, fault: str, at_work: int) -> None:
        self.injected[fault] += 1
        if at_work:
            self.at_work[fault].append(at_work)


class Faults:
    """`run` injects until it is cancelled; `heal` undoes what lasts."""

    def __init__(
        self,
        options: Options,
        *,
        database: Database,
        apis: Apis,
        nodes: Nodes,
        proxy: Proxy,
        launcher: Launcher,
        store: PostgresStore,
    ) -> None:
        self._options = options
        self._database = database
        self._apis = apis
        self._nodes = nodes
        self._proxy = proxy
        self._launcher = launcher
        self._store = store
        self._generation = 1
        self.tally = Tally()

    @property
    def kinds(self) -> list[str]:
        """All that a run injects; a fault that this machine can't have is not among them."""
        return [
            "api killed", "api stopped past the lease", "Postgres stopped at once", "backends terminated",
            "pods killed", "pods stopped past the lease", "answers lost after the commit", "limits resized",
            "queues paused", "leader replaced", "snapshot held",
            *(["disk full"] if self._database.mounted else []),
            *(["database clock set back"] if self._database.fake_clock else []),
        ]  # fmt: skip

    async def run(self) -> None:
        slow = [self._snapshot, self._crash, *([self._fill_disk] if self._database.mounted else [])]
        lanes: list[tuple[str, Sequence[Fault], float]] = [
            ("apis", [self._kill_api, self._stop_api], 2.0),
            ("database", slow, 3.0),
            ("sessions", [self._terminate], 4.0),
            ("nodes", [self._kill_node, self._stop_node], 4.0),
            ("answers", [self._lose_answers], 1.5),
            ("control", [self._resize, self._pause, self._resize, self._replace_leader], 2.0),
        ]
        if self._database.fake_clock:
            lanes.append(("clock", [self._set_clock_back], 6.0))
        async with asyncio.TaskGroup() as group:
            for name, faults, calm in lanes:
                group.create_task(self._lane(name, faults, calm))

    async def _lane(self, name: str, faults: Sequence[Fault], calm: float) -> None:
        rng = random.Random(f"{self._options.seed}:{name}")
        while True:
            for fault in rng.sample(faults, len(faults)):
                await asyncio.sleep(calm * rng.uniform(0.5, 1.5))
                await self._progress()
                try:
                    await fault(rng)
                except (
                    DOWN
                ) as error:  # the database is down or starved by another lane's fault: this one did not happen
                    self.tally.notes[f"{name} lane: {type(error).__name__}"] += 1

    async def _progress(self) -> None:
        """Wait until some attempts have settled since, and others are at work: a slow machine has slower faults."""
        settled, until = self._nodes.settled, time.monotonic() + PATIENCE_SECONDS
        while not self._nodes.at_work or (  # noqa: ASYNC110  a fault has to hit somebody
            self._nodes.settled < settled + BETWEEN_FAULTS and time.monotonic() < until
        ):
            await asyncio.sleep(0.1)

    def _count(self, fault: str) -> None:
        self.tally.count(fault, self._nodes.at_work)

    async def _kill_api(self, rng: random.Random) -> None:
        number = rng.randrange(APIS)
        self._count("api killed")
        await self._apis.kill(number)
        await asyncio.sleep(rng.uniform(0.0, 1.5))
        self._apis.start(number)

    async def _stop_api(self, rng: random.Random) -> None:
        number = rng.randrange(APIS)
        self._count("api stopped past the lease")
        self._apis.signal(number, signal.SIGSTOP)
        try:
            await asyncio.sleep(LEASE * rng.uniform(1.2, 2.0))
        finally:
            self._apis.signal(number, signal.SIGCONT)

    async def _crash(self, rng: random.Random) -> None:
        self._count("Postgres stopped at once")
        await self._database.crash(rng.uniform(0.0, 2.0))

    async def _fill_disk(self, rng: random.Random) -> None:
        at_work = self._nodes.at_work
        complaints = await self._database.fill_disk(rng.uniform(2.0, 4.0))
        if complaints:
            self.tally.count("disk full", at_work)
            self.tally.notes["writes that Postgres refused for lack of space"] += complaints

    async def _set_clock_back(self, rng: random.Random) -> None:
        self._count("database clock set back")
        await self._database.shift_clock(rng.choice([1.0, 5.0, 30.0, 600.0]), rng.uniform(2.0, 5.0))

    async def _snapshot(self, _: random.Random) -> None:
        connection = await self._database.connect()
        self._count("snapshot held")
        try:
            async with connection.transaction(isolation="repeatable_read"):
                await connection.fetchval("select count(*) from milepost.runs")
                await asyncio.sleep(self._options.snapshot_seconds)
        finally:
            connection.terminate()

    async def _terminate(self, rng: random.Random) -> None:
        connection = await self._database.connect()
        try:
            ended = await connection.fetchval(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                " where application_name = 'milepost' and random() < $1",
                rng.uniform(0.2, 1.0),
            )
        finally:
            connection.terminate()
        if ended:
            self._count("backends terminated")
            self.tally.notes["backends terminated"] += ended

    async def _kill_node(self, rng: random.Random) -> None:
        node = rng.choice([n for n in self._nodes.nodes if n.at_work] or self._nodes.nodes)
        self.tally.count("pods killed", len(node.at_work))
        await self._nodes.kill(node)

    async def _stop_node(self, rng: random.Random) -> None:
        node = rng.choice([n for n in self._nodes.nodes if n.at_work] or self._nodes.nodes)
        self.tally.count("pods stopped past the lease", len(node.at_work))
        await self._nodes.freeze(node, LEASE * rng.uniform(1.7, 2.5))

    async def _lose_answers(self, rng: random.Random) -> None:
        before = self._proxy.lost.total()
        self._proxy.lose(rng.randint(1, 6))
        await asyncio.sleep(0.5)
        if self._proxy.lost.total() > before:
            self._count("answers lost after the commit")

    async def _resize(self, rng: random.Random) -> None:
        """By the manifest, or over it at run time."""
        name, limit = rng.choice(list(QUEUES)), rng.randint(1, 20)
        if rng.random() < 0.5:
            await self._limit(name, limit)
        else:
            await self._store.change_queue(NAMESPACE, name, "chaos", limit if rng.random() < 0.7 else None)
        self._count("limits resized")

    async def _pause(self, rng: random.Random) -> None:
        name = rng.choice(list(QUEUES))
        await self._store.pause_queue(NAMESPACE, name, "chaos")
        self._count("queues paused")
        try:
            await asyncio.sleep(rng.uniform(0.5, 3.0))
        finally:
            await self._resume(name)

    async def _resume(self, name: str) -> None:
        while True:
            try:
                await self._store.resume_queue(NAMESPACE, name)
            except DOWN:
                await asyncio.sleep(0.2)
            else:
                return

    async def _replace_leader(self, _: random.Random) -> None:
        self._launcher.take_over()
        self._count("leader replaced")

    async def _limit(self, name: str, concurrency: int) -> None:
        self._generation += 1
        await self._store.apply_queue(queue_intake(name, self._generation, concurrency))

    async def heal(self) -> None:
        """Everything as it was at the start; the database answers."""
        await self._database.answering()
        for name, limit in QUEUES.items():
            await self._limit(name, limit)
            await self._store.change_queue(NAMESPACE, name, "chaos", None)
            await self._resume(name)
        for number in range(APIS):
            await self._apis.kill(number)
            self._apis.start(number)
            await self._apis.ready(number)
