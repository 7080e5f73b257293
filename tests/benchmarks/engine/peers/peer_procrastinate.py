"""procrastinate: defer, batch_defer, run_worker."""

import time

from common import CLIENTS, POLL_SECONDS, run, spread, until_none
from procrastinate import App, PsycopgConnector

LEFT = "select 1 from procrastinate_jobs where status in ('todo', 'doing')"


def make(url: str, size: int) -> App:
    app = App(connector=PsycopgConnector(conninfo=url, min_size=1, max_size=size))

    @app.task(name="noop")
    async def noop() -> None:
        return None

    return app


async def setup(url: str, _: int, __: int) -> None:
    async with make(url, 2).open_async() as app:
        await app.schema_manager.apply_schema_async()


async def enqueue(url: str, jobs: int, _: int) -> float:
    async with make(url, CLIENTS).open_async() as app:
        task = app.tasks["noop"]
        return await spread(jobs, task.defer_async)


async def bulk(url: str, jobs: int, _: int) -> float:
    async with make(url, 2).open_async() as app:
        began = time.perf_counter()
        await app.tasks["noop"].batch_defer_async(*[{} for _ in range(jobs)])
        return jobs / (time.perf_counter() - began)


async def drain(url: str, jobs: int, concurrency: int) -> float:
    async with make(url, min(concurrency, 20)).open_async() as app:
        began = time.perf_counter()
        await app.run_worker_async(
            concurrency=concurrency,
            wait=False,
            install_signal_handlers=False,
            fetch_job_polling_interval=POLL_SECONDS,
            listen_notify=True,
        )
        return jobs / await until_none(url, LEFT, began)


run({"setup": setup, "enqueue": enqueue, "bulk": bulk, "drain": drain})
