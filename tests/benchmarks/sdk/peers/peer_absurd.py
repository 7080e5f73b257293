"""absurd: one worker in this process; its steps are two statements through one connection."""

import asyncio
import time
from collections.abc import Callable

import absurdctl
import psycopg
from absurd_sdk import AsyncAbsurd
from common import STEPS_OF_SIZED, WARM, Stopwatch, main, value

QUEUE = "bench"
watch = Stopwatch()
passed: list[float] = []


def setup(url: str, _: int, __: int) -> dict[str, object]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(absurdctl.BUNDLED_SCHEMA_SQL)
        connection.execute("select absurd.create_queue('bench')")
    return {}


def giving(size: int) -> Callable[[], object]:
    async def give() -> str:
        return value(size)

    return give


async def worked(url: str, name: str, params: dict[str, int], runs: int = 1) -> None:
    """Spawn runs and work on them until all are done."""
    app = AsyncAbsurd(url, queue_name=QUEUE)

    @app.register_task(name="sequence", queue=QUEUE)
    async def sequence(given: dict[str, int], ctx: object) -> None:
        for n in range(given["count"]):
            watch.start()
            await ctx.step(f"s{n}", giving(given["size"]))
            watch.stop()

    @app.register_task(name="resumed", queue=QUEUE)
    async def resumed(given: dict[str, int], ctx: object) -> None:
        begun = time.perf_counter()
        for n in range(given["count"]):
            await ctx.step(f"s{n}", giving(given["size"]))
        passed.append(time.perf_counter() - begun)
        if len(passed) == 1:
            raise RuntimeError("the first attempt ends here")

    for _ in range(runs):
        await app.spawn(name, params, queue=QUEUE)
    working = asyncio.create_task(app.start_worker(concurrency=1, poll_interval=0.05))
    left = "select exists (select from absurd.t_bench where state in ('pending', 'sleeping', 'running'))"
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
    while (await (await connection.execute(left)).fetchone())[0]:  # noqa: ASYNC110  it tells nobody
        await asyncio.sleep(0.05)
    await connection.close()
    app.stop_worker()
    await working


def steps(url: str, count: int, size: int) -> dict[str, object]:
    asyncio.run(worked(url, "sequence", {"count": count + WARM, "size": size}))
    return {"took": watch.took[WARM:]}


def resume(url: str, count: int, size: int) -> dict[str, object]:
    asyncio.run(worked(url, "resumed", {"count": count, "size": size}))
    return {"seconds": passed[1]}


def size(url: str, count: int, each: int) -> dict[str, object]:
    asyncio.run(worked(url, "sequence", {"count": STEPS_OF_SIZED, "size": each}, count))
    return {}


main({"setup": setup, "steps": steps, "resume": resume, "size": size})
