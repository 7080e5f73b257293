"""The Postgres that all are measured on, and what it tells of a phase."""

import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from tests.postgres import Postgres

SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "max_connections": 200,
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "top",
}


@dataclass(frozen=True)
class Cost:
    """Per job: statements that a client sent, and bytes of WAL."""

    statements: float
    wal: float


class Meter:
    """Reads the counters before and after a phase."""

    def __init__(self, server: Postgres) -> None:
        self._server = server

    def url(self, database: str) -> str:
        return self._server.url(database)

    async def fresh(self, name: str) -> str:
        """An empty database. Returns its address."""
        admin = await asyncpg.connect(self._server.url())
        await admin.execute(f"drop database if exists {name} with (force)")
        await admin.execute(f"create database {name}")
        await admin.close()
        return self._server.url(name)

    async def settle(self, database: str) -> None:
        """Analysed tables and a checkpoint behind it: the same start for everybody."""
        connection = await asyncpg.connect(self._server.url(database))
        await connection.execute("vacuum analyze")
        await connection.execute("checkpoint")
        await connection.execute("create extension if not exists pg_stat_statements")
        await connection.execute("select pg_stat_statements_reset()")
        await connection.close()

    async def read(self, database: str) -> tuple[int, int]:
        """(statements so far, WAL position)"""
        connection = await asyncpg.connect(self._server.url(database))
        row = await connection.fetchrow(
            "select coalesce(sum(calls), 0)::bigint as calls, (pg_current_wal_lsn() - '0/0')::bigint as wal"
            " from pg_stat_statements s join pg_database d on d.oid = s.dbid where d.datname = $1",
            database,
        )
        await connection.close()
        return int(row["calls"]), int(row["wal"])


@asynccontextmanager
async def running(directory: Path | None) -> AsyncIterator[Postgres]:
    """One server, gone afterwards. `directory`: on which disk."""
    home = Path(tempfile.mkdtemp(prefix="milepost-bench-", dir=directory))
    home.chmod(0o755)  # noqa: ASYNC240  Postgres' user passes through
    (home / "pg").mkdir()
    server = Postgres(home / "pg", SETTINGS)
    server.create()
    await server.start()
    try:
        yield server
    finally:
        await server.stop(signal.SIGINT)
        shutil.rmtree(home)
