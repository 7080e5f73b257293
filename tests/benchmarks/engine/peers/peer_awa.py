"""awa-pg: insert, enqueue_many_copy, workers of its Rust core that call Python."""

import asyncio
import time
from dataclasses import dataclass

import awa
from common import POLL_SECONDS, run, spread


@dataclass
class Noop:
    n: int = 0


def connect(url: str) -> awa.AsyncClient:
    """It wants a host in the address, and takes the socket's directory all the same."""
    return awa.AsyncClient(url.replace("@/", "@localhost/"))


async def setup(url: str, _: int, __: int) -> None:
    client = connect(url)
    await client.migrate()
    await client.install_queue_storage()
    await client.close()


async def enqueue(url: str, jobs: int, _: int) -> float:
    client = connect(url)
    rate = await spread(jobs, lambda: client.insert(Noop()))
    await client.close()
    return rate


async def bulk(url: str, jobs: int, _: int) -> float:
    client = connect(url)
    work = [Noop(n) for n in range(jobs)]
    began = time.perf_counter()
    await client.enqueue_many_copy(work)
    rate = jobs / (time.perf_counter() - began)
    await client.close()
    return rate


async def drain(url: str, jobs: int, concurrency: int) -> float:
    client = connect(url)
    done = 0
    all_done = asyncio.Event()

    @client.task(Noop)
    async def noop(_: object) -> None:
        nonlocal done
        done += 1
        if done >= jobs:
            all_done.set()

    began = time.perf_counter()
    await client.start([("default", concurrency)], poll_interval_ms=int(POLL_SECONDS * 1000))
    await all_done.wait()
    took = time.perf_counter() - began
    await client.shutdown()  # records what is still under way: in its favour this is not counted
    await client.close()
    return jobs / took


run({"setup": setup, "enqueue": enqueue, "bulk": bulk, "drain": drain})
