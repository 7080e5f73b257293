"""pgqueuer: Queries.enqueue, lists of it, and PgQueuer.run that drains."""

import asyncio
import time
from datetime import timedelta

import asyncpg
from common import CLIENTS, POLL_SECONDS, run, spread, until_none
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.domain.types import QueueExecutionMode
from pgqueuer.queries import Queries

LEFT = "select 1 from pgqueuer"


async def setup(url: str, _: int, __: int) -> None:
    connection = await asyncpg.connect(url)
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()


async def enqueue(url: str, jobs: int, _: int) -> float:
    async with asyncpg.create_pool(url, min_size=CLIENTS, max_size=CLIENTS) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))
        return await spread(jobs, lambda: queries.enqueue("noop", b"{}"))


async def bulk(url: str, jobs: int, _: int) -> float:
    connection = await asyncpg.connect(url)
    queries = Queries(AsyncpgDriver(connection))
    began = time.perf_counter()
    await queries.enqueue(["noop"] * jobs, [b"{}"] * jobs, [0] * jobs)
    rate = jobs / (time.perf_counter() - began)
    await connection.close()
    return rate


async def drain(url: str, jobs: int, concurrency: int) -> float:
    connection = await asyncpg.connect(url)
    worker = PgQueuer(AsyncpgDriver(connection))

    @worker.entrypoint("noop")
    async def noop(_: object) -> None:
        return None

    # Both timeouts: an idle worker looks only every dequeue_timeout, whatever the heartbeat is.
    began = time.perf_counter()
    running = asyncio.create_task(
        worker.run(
            dequeue_timeout=timedelta(seconds=POLL_SECONDS),
            heartbeat_timeout=timedelta(seconds=10),
            batch_size=concurrency,
            mode=QueueExecutionMode.drain,
        )
    )
    took = await until_none(url, LEFT, began)
    worker.shutdown.set()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return jobs / took


run({"setup": setup, "enqueue": enqueue, "bulk": bulk, "drain": drain})
