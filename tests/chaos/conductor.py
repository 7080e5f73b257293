"""The course of a chaos run."""

import asyncio
import logging
import random
import statistics
import time
from contextlib import AsyncExitStack
from pathlib import Path

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.settings import Settings
from tests.chaos.apis import Apis
from tests.chaos.checker import Evidence, Verdict, judge
from tests.chaos.config import (
    APIS,
    BEAT,
    GLOBAL_LIMIT,
    GRACE,
    LEASE,
    PODS,
    QUEUES,
    TASKS,
    Options,
    queue_intake,
    task_intake,
)
from tests.chaos.database import Database, find_faketime
from tests.chaos.evidence import collect
from tests.chaos.faults import DOWN, Faults
from tests.chaos.feeder import Feeder
from tests.chaos.history import Journal
from tests.chaos.kube import token_reviews
from tests.chaos.launcher import Launcher
from tests.chaos.nodes import Nodes
from tests.chaos.proxy import Proxy

CACHE = Path(".tools/faketime")


class Conductor:
    """Holds the parts. `stack` ends them."""

    def __init__(self, options: Options, home: Path, stack: AsyncExitStack, *, mounted: bool) -> None:
        self._options = options
        self._home = home
        self._stack = stack
        self._database = Database(home, find_faketime(CACHE.absolute()), mounted=mounted)
        self._background: list[asyncio.Task[None]] = []
        self._deaths = 0

    async def play(self) -> bool:
        """Whether everything held."""
        options = self._options
        print(f"chaos: seed {options.seed}, {options.minutes:g} min of faults, {APIS} apis, {PODS} pods,"
              f" lease {LEASE:g} s", flush=True)  # fmt: skip
        for missing, why in (
            (not self._database.mounted, "no disk full: only root can mount a small file system"),
            (not self._database.fake_clock, "no clock set back: libfaketime is not to be had"),
        ):
            if missing:
                print(f"  {why}", flush=True)
        logging.getLogger("asyncpg").setLevel(logging.CRITICAL)  # that connections break is no news here
        await self._bring_up()
        began = time.monotonic()
        feeding = asyncio.create_task(self._feeder.run())
        raging = asyncio.create_task(self._faults.run())
        self._background += [feeding, raging]
        await self._watch(began, raging, feeding)
        raging.cancel()
        await asyncio.gather(raging, return_exceptions=True)
        self._feeder.stop()
        await self._faults.heal()
        await feeding
        rested = await self._drain()
        return await self._judge(rested)

    async def _bring_up(self) -> None:
        self._stack.push_async_callback(self._end)
        await self._database.create()
        kubeconfig = await self._stack.enter_async_context(token_reviews(self._home))
        self._apis = Apis(self._home, self._database.url, kubeconfig)
        self._stack.callback(self._apis.stop)
        for number in range(APIS):
            self._apis.start(number)
        settings = Settings(
            database_url=self._database.url,
            lease_seconds=LEASE,
            beat_seconds=BEAT,
            grace_seconds=GRACE,
            global_concurrency=GLOBAL_LIMIT,
        )
        self._store = await self._stack.enter_async_context(PostgresStore.open_when_up(settings))
        for queue, limit in QUEUES.items():
            await self._store.apply_queue(queue_intake(queue, 1, limit))
        for task in TASKS:
            await self._store.apply_task(task_intake(task))
        for number in range(APIS):
            await self._apis.ready(number)
        self._proxy = Proxy(self._apis.ports, random.Random(f"{self._options.seed}:proxy"))
        await self._proxy.start()
        self._nodes = Nodes(self._home, self._proxy.port)
        self._stack.push_async_callback(self._nodes.stop)
        await self._nodes.start()
        self._launcher = Launcher(self._store, self._nodes)
        self._launcher.take_over()
        self._stack.push_async_callback(self._launcher.stop)
        journal = Journal(self._home / "feeder.journal")
        self._feeder = Feeder(self._options.seed, self._proxy.port, self._options.backlog, journal)
        self._faults = Faults(
            self._options,
            database=self._database,
            apis=self._apis,
            nodes=self._nodes,
            proxy=self._proxy,
            launcher=self._launcher,
            store=self._store,
        )
        self._background += [asyncio.create_task(one()) for one in (self._database.supervise, self._supervise)]

    async def _supervise(self) -> None:
        """Count what the feeder must know, and start apis again that ended by themselves, as the kubelet would."""
        while True:
            await asyncio.sleep(0.5)
            for number in self._apis.died_by_themselves():
                self._deaths += 1
                self._apis.start(number)
            try:
                connection = await self._database.connect()
            except DOWN:
                continue
            try:
                self._feeder.live = await connection.fetchval(
                    "select count(*) from milepost.runs where finished_at is null and state <> 'held'", timeout=2
                )
            except DOWN:
                continue
            finally:
                connection.terminate()

    async def _watch(self, began: float, *tasks: asyncio.Task[None]) -> None:
        """Sleep through the faults; what ends before them has failed."""
        shown = began
        while self._goes_on(time.monotonic() - began):
            done, _ = await asyncio.wait(tasks, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
                raise RuntimeError("faults and feeder go on until they are told to stop")
            if time.monotonic() - shown > 60:
                shown = time.monotonic()
                faults = sum(self._faults.tally.injected.values())
                said = f"{self._feeder.acknowledged} runs acknowledged, {self._nodes.at_work} at work, {faults} faults"
                print(f"  {(shown - began) / 60:.0f} min: {said}", flush=True)

    def _goes_on(self, seconds: float) -> bool:
        """For the time that was asked for, and somewhat longer where a slow machine has had too few hits by then."""
        wanted = self._options.minutes * 60
        if seconds < wanted:
            return True
        return seconds < wanted * 1.25 + 30 and any(
            count < self._options.needed_hits for count in self._hits().values()
        )

    def _hits(self) -> dict[str, int]:
        return {kind: len(self._faults.tally.at_work[kind]) for kind in self._faults.kinds}

    async def _drain(self) -> bool:
        """Wait until nothing is live but what is held for good reason."""
        query = (
            "select (select count(*) from milepost.runs where finished_at is null and state <> 'held')"
            " + (select count(*) from milepost.pods where state <> 'closed')"
        )
        until = time.monotonic() + self._options.drain_seconds
        while time.monotonic() < until:
            connection = await self._database.connect()
            left = await connection.fetchval(query)
            connection.terminate()
            if not left:
                return True
            await asyncio.sleep(0.5)
        print(f"  {left} runs and pods did not come to rest in {self._options.drain_seconds:g} s", flush=True)
        return False

    async def _judge(self, rested: bool) -> bool:
        await self._launcher.stop()
        connection = await self._database.connect()
        evidence = await collect(self._home, connection)
        verdicts = judge(evidence)
        for name, count in (await self._store.violations()).items():
            verdicts.append(Verdict(f"violations of the invariant {name}", ["a row"] * count))
        await connection.close()
        verdicts.append(Verdict("triggers refused", self._feeder.refused))
        verdicts.append(Verdict("api processes that ended by themselves", ["ended"] * self._deaths))
        hits = self._print_faults()
        self._print_facts(evidence)
        print("broken promises:")
        for verdict in verdicts:
            print(verdict.line())
        broken = [v for v in verdicts if v.broken]
        too_few = [name for name, count in hits.items() if count < self._options.needed_hits]
        if too_few:
            print(f"  too few hits (needed {self._options.needed_hits}): {', '.join(too_few)}")
        self._print_last_line(evidence, broken, too_few, rested)
        return rested and not broken and not too_few

    def _print_faults(self) -> dict[str, int]:
        tally = self._faults.tally
        hits = self._hits()
        print(f"{'fault':<32}{'injected':>9}{'hit runs at work':>18}{'runs at work (median)':>23}")
        for kind, count in hits.items():
            median = statistics.median(tally.at_work[kind]) if tally.at_work[kind] else 0
            print(f"{kind:<32}{tally.injected[kind]:>9}{count:>18}{median:>23.0f}")
        for note, number in sorted(tally.notes.items()):
            print(f"  {note}: {number}")
        return hits

    def _print_facts(self, evidence: Evidence) -> None:
        states: dict[str, int] = {}
        for run in evidence.runs.values():
            states[run["state"]] = states.get(run["state"], 0) + 1
        refused = [entry for entry in evidence.of("refused") if entry["code"] == "fenced"]
        resumed = sum(1 for read in evidence.of("read") if read["seqs"])
        print(f"  runs: {', '.join(f'{count} {state}' for state, count in sorted(states.items()))};"
              f" {len(evidence.attempts)} attempts, {resumed} resumed with records")  # fmt: skip
        print(f"  answers lost after the commit: {dict(self._proxy.lost)}; attempts fenced off while they worked:"
              f" {len(refused)}; leaders deposed: {self._launcher.deposed}")  # fmt: skip

    def _print_last_line(self, evidence: Evidence, broken: list[Verdict], too_few: list[str], rested: bool) -> None:
        runs, records = len({e["run"] for e in evidence.of("trigger")}), len(evidence.of("ack"))
        faults = sum(self._faults.tally.injected.values())
        head = f"chaos seed {self._options.seed}, {faults} faults in {self._options.minutes:g} min"
        if broken or too_few or not rested:
            what = "; ".join(f"{len(v.broken)} {v.promise}" for v in broken) or "see above"
            print(f"{head}: FAILED: {what}", flush=True)
            return
        print(
            f"{head}: OK: {runs} acknowledged runs all ended or wait with a reason; of {records} acknowledged records"
            " 0 lost, 0 changed, 0 written by two attempts; 0 admissions over a limit; 0 leaked slots; 0 violations",
            flush=True,
        )

    async def _end(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._database.stop()
