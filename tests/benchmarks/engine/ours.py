"""Milepost in the same phases as its peers: the production functions on the production schema, through the store.

`python -m tests.benchmarks.engine.ours PHASE URL JOBS CONCURRENCY`
"""

import asyncio
import json
import sys
import time

import uvloop

from milepost.wire.pod import Fence, SettleRequest, Start
from milepost_operator.adapters.postgres.migrate import migrate
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.api.batcher import Batcher
from milepost_operator.domain.runs import NewRun, PodSession, QueueIntake, Retry, TaskIntake, Timeouts
from milepost_operator.settings import Settings

NAMESPACE = "bench"
CLIENTS = 8
CLAIM = 100
BULK = 1000


def settings(url: str, pool: int = 10) -> Settings:
    return Settings(database_url=url, database_pool=pool)


async def setup(url: str, _: int, __: int) -> None:
    await migrate(settings(url))
    async with PostgresStore.open(settings(url)) as store:
        await store.apply_queue(QueueIntake(NAMESPACE, "bench", "uid", 1, None))
        task = TaskIntake(NAMESPACE, "noop", "uid", 1, {"entrypoint": "a:b"}, "bench", Retry(), Timeouts())
        await store.apply_task(task)


async def enqueue(url: str, jobs: int, _: int) -> float:
    async with PostgresStore.open(settings(url, CLIENTS)) as store:

        async def client() -> None:
            for _ in range(jobs // CLIENTS):
                await store.create_run(NewRun(NAMESPACE, "noop", "{}"))

        await asyncio.gather(*[client() for _ in range(CLIENTS)])  # connections, plans and caches are there
        began = time.perf_counter()
        await asyncio.gather(*[client() for _ in range(CLIENTS)])
        return jobs // CLIENTS * CLIENTS / (time.perf_counter() - began)


async def bulk(url: str, jobs: int, _: int) -> float | None:
    """With an idempotency key each, as a batch request comes: up to 1,000 in one transaction."""
    async with PostgresStore.open(settings(url)) as store:
        if not hasattr(store, "create_runs"):
            return None
        runs = [NewRun(NAMESPACE, "noop", "{}", idempotency_key=f"k{n}") for n in range(jobs)]
        began = time.perf_counter()
        for first in range(0, jobs, BULK):
            await store.create_runs(runs[first : first + BULK])
        return jobs / (time.perf_counter() - began)


async def drain(url: str, jobs: int, concurrency: int) -> float:
    """Admit, start and settle every run. Launching pods and opening their sessions, once a pod, is not counted."""
    async with PostgresStore.open(settings(url, min(concurrency, 50))) as store:
        gate = asyncio.Semaphore(concurrency)

        starts: Batcher[PodSession, Start] = Batcher(store.start, _ignore)
        settles: Batcher[tuple[PodSession, SettleRequest], str] = Batcher(store.settle, _ignore)

        async def serve(session: PodSession) -> None:
            async with gate:
                start = await starts.submit(session)
                fence = Fence(start.run_id, start.attempt, start.token)
                await settles.submit((session, SettleRequest(fence, "succeeded", "null")))

        took, left = 0.0, jobs
        while left > 0:
            began = time.perf_counter()
            admitted = await store.admit(CLAIM)
            took += time.perf_counter() - began
            sessions = await launch(store)
            if len(sessions) != admitted:
                raise RuntimeError(f"{admitted} runs were admitted, {len(sessions)} pods wanted")
            began = time.perf_counter()
            await asyncio.gather(*[serve(session) for session in sessions])
            took += time.perf_counter() - began
            left -= admitted
        return jobs / took


def _ignore(_: int, __: float) -> None:
    """Batches are not watched here."""


async def launch(store: PostgresStore) -> list[PodSession]:
    """What the operator and the sidecars of the admitted runs do until they start."""
    epoch = await store.take_epoch("bench")
    orders = await store.take_wanted(epoch, CLAIM)
    opening = [store.open_session(o.pod_id, NAMESPACE, f"uid-{o.pod_id}", f"mp-{o.pod_id}-x") for o in orders]
    return list(await asyncio.gather(*opening))


def main() -> None:
    phase, url, jobs, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    phases = {"setup": setup, "enqueue": enqueue, "bulk": bulk, "drain": drain}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rate = runner.run(phases[phase](url, jobs, concurrency))
    sys.stdout.write("RESULT " + json.dumps({"rate": rate}) + "\n")


if __name__ == "__main__":
    main()
