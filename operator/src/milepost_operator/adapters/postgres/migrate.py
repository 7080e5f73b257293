"""Forward-only migrations: `NNNN_name.sql`, each in its own transaction, under one advisory lock, with a checksum."""

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

import asyncpg

from milepost_operator.adapters.postgres.errors import translated
from milepost_operator.adapters.postgres.tls import tls_arguments
from milepost_operator.domain.errors import MilepostError
from milepost_operator.settings import Settings

SCHEMA: Final = "milepost"
_LOCK: Final = 0x6D696C65  # "mile"
_FILE: Final = re.compile(r"^(\d{4})_(\w+)\.sql$")


class SchemaError(MilepostError):
    """The database's schema is not one that this release can work with."""

    code = "schema"


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All of this release, in order."""
    found = []
    for file in files(__package__).joinpath("migrations").iterdir():
        match = _FILE.match(file.name)
        if match:
            found.append(Migration(int(match[1]), match[2], file.read_text()))
    found.sort(key=lambda m: m.number)
    if [m.number for m in found] != list(range(1, len(found) + 1)):
        raise SchemaError(f"migrations are not numbered 1..n: {[m.number for m in found]}")
    return found


async def migrate(settings: Settings) -> list[str]:
    """Bring the schema to this release; returns the names applied now. SchemaError when it is newer or was changed."""
    with translated():
        return await _migrate(settings)


async def _migrate(settings: Settings) -> list[str]:
    connection = await asyncpg.connect(
        settings.dsn,
        timeout=5,
        server_settings={"search_path": SCHEMA},
        **tls_arguments(settings),
    )
    try:
        await connection.execute(f"create schema if not exists {SCHEMA}")
        await connection.execute(
            "create table if not exists schema_migrations (number integer primary key, name text not null,"
            " checksum text not null, applied_at timestamptz not null default clock_timestamp())",
        )
        await connection.execute("select pg_advisory_lock($1)", _LOCK)
        try:
            return await _apply(connection)
        finally:
            await connection.execute("select pg_advisory_unlock($1)", _LOCK)
    finally:
        await connection.close()


async def _apply(connection: asyncpg.Connection) -> list[str]:
    known = migrations()
    rows = await connection.fetch("select number, name, checksum from schema_migrations order by number")
    if len(rows) > len(known):
        raise SchemaError(f"the schema is at {len(rows)}, this release knows {len(known)}: upgrade Milepost first")
    for row, migration in zip(rows, known, strict=False):
        if row["checksum"] != migration.checksum:
            raise SchemaError(f"migration {row['number']:04}_{row['name']} was applied with another text")
    done = []
    for migration in known[len(rows) :]:
        async with connection.transaction():
            await connection.execute("set local lock_timeout = '10s'")
            await connection.execute(migration.sql)
            await connection.execute(
                "insert into schema_migrations (number, name, checksum) values ($1, $2, $3)",
                migration.number,
                migration.name,
                migration.checksum,
            )
        done.append(f"{migration.number:04}_{migration.name}")
    return done
