"""dbos: enqueue by its client (it has no bulk), a registered queue that a worker polls."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from common import CLIENTS, POLL_SECONDS, run, until_none
from dbos import DBOS, DBOSClient

LEFT = "select 1 from dbos.workflow_status where status in ('ENQUEUED', 'PENDING')"


def launch(url: str, concurrency: int | None) -> None:
    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR", "run_admin_server": False})

    @DBOS.workflow(name="noop")
    def noop() -> None:
        return None

    DBOS.launch()
    if concurrency is not None:
        DBOS.register_queue("bench", worker_concurrency=concurrency, polling_interval_sec=POLL_SECONDS)


async def setup(url: str, _: int, __: int) -> None:
    await asyncio.to_thread(launch, url, None)
    await asyncio.to_thread(DBOS.destroy)


async def enqueue(url: str, jobs: int, _: int) -> float:
    client = DBOSClient(system_database_url=url)

    def one(share: int) -> None:
        for _ in range(share):
            client.enqueue({"queue_name": "bench", "workflow_name": "noop"})

    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(one, [jobs // CLIENTS] * CLIENTS))
    rate = jobs // CLIENTS * CLIENTS / (time.perf_counter() - began)
    client.destroy()
    return rate


async def bulk(_: str, __: int, ___: int) -> None:
    return None


async def drain(url: str, jobs: int, concurrency: int) -> float:
    began = time.perf_counter()
    await asyncio.to_thread(launch, url, concurrency)
    took = await until_none(url, LEFT, began)
    await asyncio.to_thread(DBOS.destroy)
    return jobs / took


run({"setup": setup, "enqueue": enqueue, "bulk": bulk, "drain": drain})
