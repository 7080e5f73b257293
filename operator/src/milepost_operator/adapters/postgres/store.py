"""The whole store: every port over one pool, and the wake-ups."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from milepost_operator.adapters.postgres.database import Database, connect
from milepost_operator.adapters.postgres.duties import PostgresDuties
from milepost_operator.adapters.postgres.errors import translated
from milepost_operator.adapters.postgres.intake import PostgresIntake
from milepost_operator.adapters.postgres.launches import PostgresLaunches
from milepost_operator.adapters.postgres.podstore import PostgresPodStore
from milepost_operator.adapters.postgres.views import PostgresProjections, PostgresReads
from milepost_operator.settings import Settings


class PostgresStore(
    PostgresIntake,
    PostgresLaunches,
    PostgresProjections,
    PostgresPodStore,
    PostgresDuties,
    PostgresReads,
):
    """Each parent implements one port of `ports.store`."""

    def __init__(self, db: Database) -> None:
        super().__init__(db)

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator["PostgresStore"]:
        """Connect; UnavailableError when Postgres can't be reached now."""
        async with connect(settings) as db:
            yield cls(db)

    async def wakeups(self, names: set[str]) -> AsyncIterator[str]:
        """Names of work that has come, by LISTEN. A hint: some are lost with a connection, so poll too.

        Ends with UnavailableError when the connection breaks.
        """
        heard: asyncio.Queue[str | None] = asyncio.Queue(maxsize=64)
        prefix = f"{self._db.cluster}/"

        def on_notify(*args: object) -> None:
            name = str(args[-1]).removeprefix(prefix)
            if name in names:
                with suppress(asyncio.QueueFull):  # what is queued already wakes the same loop
                    heard.put_nowait(name)

        def on_close(*_: object) -> None:
            with suppress(asyncio.QueueFull):
                heard.put_nowait(None)

        with translated():
            async with self._db.pool.acquire() as connection:
                connection.add_termination_listener(on_close)
                await connection.add_listener("milepost", on_notify)
                try:
                    while (name := await heard.get()) is not None:
                        yield name
                finally:
                    connection.remove_termination_listener(on_close)
                    if not connection.is_closed():
                        await connection.remove_listener("milepost", on_notify)
        raise ConnectionResetError("the connection that listens was closed")
