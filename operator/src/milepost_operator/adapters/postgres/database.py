"""Connections: the pool, transactions that retry, and the wake-up channel."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

import asyncpg
import orjson

from milepost_operator.adapters.postgres.errors import retrying, translated
from milepost_operator.adapters.postgres.migrate import SCHEMA
from milepost_operator.adapters.postgres.tls import tls_arguments
from milepost_operator.adapters.postgres.wakes import Wakes
from milepost_operator.settings import Settings

T = TypeVar("T")
Row: TypeAlias = Any
"""An asyncpg.Record; its columns' types are those of the query."""
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

_SERVER_SETTINGS = {
    "search_path": SCHEMA,
    "application_name": "milepost",
    "idle_in_transaction_session_timeout": "30s",
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "jit": "off",
    "timezone": "UTC",
    # The server lets go of clients whose node went without a word: each holds 10 to 20 MB of it.
    "tcp_keepalives_idle": "15",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",
}


def seconds(value: float) -> timedelta:
    """As an argument of type interval."""
    return timedelta(seconds=value)


def to_json(value: object) -> str:
    """Our own small objects (not users' values) as JSON text."""
    return orjson.dumps(value).decode()


class Database:
    """The pool with what every query needs: which cluster's rows are ours, and the settings in force."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", settings: Settings) -> None:
        self.pool = pool
        self.settings = settings
        self.cluster = settings.cluster
        self._wakes = Wakes(pool, settings.cluster)
        self.lane = Lane(self)
        """For the records of sidecars."""
        self.on_start: Callable[[str | None], object] = lambda _: None
        """Told of each attempt that begins; see PostgresPodStore.tell_starts."""

    async def fetch(self, query: str, *args: object) -> Sequence[Row]:
        """One statement, one transaction."""

        async def run() -> Sequence[Row]:
            rows: Sequence[Row] = await self.pool.fetch(query, *args)
            return rows

        return await retrying(run)

    async def fetchrow(self, query: str, *args: object) -> Row | None:
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None

    async def transaction(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run `work` in a transaction; from the start again after a deadlock or serialisation failure."""

        async def run() -> T:
            async with self.pool.acquire() as connection, connection.transaction():
                return await work(connection)

        return await retrying(run)

    def wake(self, *names: str) -> None:
        """Tell other processes that there is work; call it after the commit."""
        self._wakes.add(names)

    def wake_others(self, *names: str) -> None:
        """The same where this process knows by itself."""
        self._wakes.add_for_others(names)

    def wakeups(self, names: set[str]) -> AsyncIterator[str]:
        """What others tell of; see Wakes.listen."""
        return self._wakes.listen(names)

    def wake_in(self, seconds: float, name: str) -> None:
        """The same for work whose time is known."""
        self._wakes.add_in(seconds, name)

    async def close(self) -> None:
        """Drop every connection; what was not committed is not acknowledged either."""
        await self._wakes.close()
        self.pool.terminate()


class Lane:
    """A connection kept for the statements of one caller, one after the other: the pool's hand-over costs as much time
    as a short statement does. A second caller at the same time gets one from the pool.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._connection: Connection | None = None
        self._busy = False

    async def fetch(self, query: str, *args: object) -> Sequence[Row]:
        """One statement, one transaction, as `Database.fetch`."""
        if self._busy:
            return await self._db.fetch(query, *args)
        self._busy = True
        try:
            return await retrying(lambda: self._fetch(query, args))
        finally:
            self._busy = False

    async def _fetch(self, query: str, args: Sequence[object]) -> Sequence[Row]:
        if self._connection is None:
            self._connection = await self._db.pool.acquire()
        connection = self._connection
        try:
            rows: Sequence[Row] = await connection.fetch(query, *args)
        except asyncpg.PostgresError:
            if _closed(connection):
                self._drop()
            raise
        except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError):
            self._drop()  # its other end is gone, or perhaps gone: the next statement gets another one
            raise
        return rows

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(asyncpg.InterfaceError):  # the pool has taken a closed one back already
                connection.terminate()


def _closed(connection: Connection) -> bool:
    try:
        closed: bool = connection.is_closed()
    except asyncpg.InterfaceError:  # so closed that the pool has taken it back
        return True
    return closed


async def _keep(_: Connection) -> None:
    """Leave a connection as it is when it comes back: nothing of ours outlives its transaction, listeners take
    themselves off, and the reset would be a round trip more for each statement.
    """


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[Database]:
    """Open the pool. UnavailableError when Postgres can't be reached now."""
    with translated():
        pool = await asyncpg.create_pool(
            settings.dsn,
            min_size=1,
            max_size=settings.database_pool,
            command_timeout=10,
            timeout=5,
            max_inactive_connection_lifetime=60,
            reset=_keep,
            server_settings=_SERVER_SETTINGS,
            **tls_arguments(settings),
        )
    database = Database(pool, settings)
    try:
        yield database
    finally:
        await database.close()


def as_uuid(value: object) -> UUID:
    """Asyncpg's own UUID type is a subclass with another repr; keep to the standard one."""
    return UUID(str(value))
