"""absurd: spawn one by one (it has no bulk), a worker that claims as many as it runs at once."""

import asyncio
import time

import absurdctl
import asyncpg
import psycopg
from absurd_sdk import AsyncAbsurd
from common import CLIENTS, POLL_SECONDS, run, until_none

LEFT = "select 1 from absurd.t_bench where state in ('pending', 'sleeping', 'running')"


async def setup(url: str, _: int, __: int) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(absurdctl.BUNDLED_SCHEMA_SQL)
    await connection.execute("select absurd.create_queue('bench')")
    await connection.close()


async def enqueue(url: str, jobs: int, _: int) -> float:
    connections = [await psycopg.AsyncConnection.connect(url, autocommit=True) for _ in range(CLIENTS)]
    clients = [AsyncAbsurd(connection, queue_name="bench") for connection in connections]

    async def client(one: AsyncAbsurd) -> None:
        for _ in range(jobs // CLIENTS):
            await one.spawn("noop", {}, queue="bench")

    began = time.perf_counter()
    await asyncio.gather(*[client(one) for one in clients])
    rate = jobs // CLIENTS * CLIENTS / (time.perf_counter() - began)
    for connection in connections:
        await connection.close()
    return rate


async def bulk(_: str, __: int, ___: int) -> None:
    return None


async def drain(url: str, jobs: int, concurrency: int) -> float:
    app = AsyncAbsurd(url, queue_name="bench")

    @app.register_task(name="noop", queue="bench")
    async def noop(_: object, __: object) -> None:
        return None

    began = time.perf_counter()
    working = asyncio.create_task(app.start_worker(concurrency=concurrency, poll_interval=POLL_SECONDS))
    took = await until_none(url, LEFT, began)
    app.stop_worker()
    await working
    return jobs / took


run({"setup": setup, "enqueue": enqueue, "bulk": bulk, "drain": drain})
