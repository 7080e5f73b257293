"""A crash of Postgres right after an acknowledgement."""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from milepost_operator.adapters.postgres.migrate import migrate
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.settings import Settings
from tests.integration.engine import NS, apply_task, next_pod, trigger
from tests.postgres import Postgres


@pytest.fixture
def server() -> Iterator[Postgres]:
    """It writes its log by itself so seldom that only what commits wait for is on the disk."""
    with tempfile.TemporaryDirectory(prefix="milepost-crash-") as home:
        Path(home).chmod(0o755)
        (Path(home) / "pg").mkdir()
        yield Postgres(Path(home) / "pg", {"shared_buffers": "16MB", "wal_writer_delay": "10s"})


async def test_what_was_acknowledged_outlives_a_crash(server: Postgres) -> None:
    server.create()
    await server.start()
    try:
        admin = await asyncpg.connect(server.url())
        await admin.execute("create database milepost")
        await admin.close()
        settings = Settings(database_url=server.url("milepost"))
        await migrate(settings)
        async with PostgresStore.open(settings) as store:
            await apply_task(store)
            run = await trigger(store)
            pod = await next_pod(store)
            assert await pod.write("a", '"kept"') == [1]
            await server.stop(signal.SIGQUIT)
        await server.start()
        async with PostgresStore.open(settings) as store:
            pod.store = store
            assert await pod.records() == [("a", '"kept"')]
            assert await pod.succeed('"done"') == "succeeded"
            await server.stop(signal.SIGQUIT)
        await server.start()
        async with PostgresStore.open(settings) as store:
            view = await store.get_run(NS, run.name)
            assert (view.state, view.result) == ("succeeded", '"done"')
    finally:
        await server.stop(signal.SIGQUIT)
