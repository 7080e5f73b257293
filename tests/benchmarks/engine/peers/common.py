"""What each peer's script shares: it runs in the peers' own environment, and knows nothing of Milepost."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

import asyncpg

POLL_SECONDS = 0.05
"""The poll interval that every peer gets which has one."""
CLIENTS = 8


async def spread(jobs: int, enqueue: Callable[[], Awaitable[object]]) -> float:
    """Jobs a second when CLIENTS clients enqueue one at a time."""

    async def client(share: int) -> None:
        for _ in range(share):
            await enqueue()

    began = time.perf_counter()
    await asyncio.gather(*[client(jobs // CLIENTS) for _ in range(CLIENTS)])
    return jobs // CLIENTS * CLIENTS / (time.perf_counter() - began)


async def until_none(url: str, query: str, began: float) -> float:
    """Seconds since `began` when the query finds no row any more: what was done is recorded as done."""
    connection = await asyncpg.connect(url)
    try:
        while await connection.fetchval(f"select exists ({query} limit 1)"):  # noqa: ASYNC110  it tells nobody
            await asyncio.sleep(0.01)
        return time.perf_counter() - began
    finally:
        await connection.close()


def say(**facts: object) -> None:
    """The one line that the benchmark reads."""
    sys.stdout.write("RESULT " + json.dumps(facts) + "\n")
    sys.stdout.flush()


def run(phases: dict[str, Callable[..., Awaitable[float | None]]]) -> None:
    """`script PHASE URL JOBS CONCURRENCY` prints jobs a second; None for what a peer does not have."""
    phase, url, jobs, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    try:
        import uvloop  # noqa: PLC0415

        factory = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        rate = runner.run(phases[phase](url, jobs, concurrency))
    say(rate=rate)
