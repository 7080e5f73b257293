"""A scheduler that stops at a moment of its transaction and waits to be killed: `python … <dsn> <moment>`.

`inserted`: the runs are in, the cursors have not moved; `moved`: both, not committed; `committed`: nobody knows yet.
"""

import asyncio
import sys
from collections.abc import Sequence

from milepost_operator.adapters.postgres import database, schedules
from milepost_operator.adapters.postgres.database import Connection
from milepost_operator.adapters.postgres.schedules import SlotRun
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.settings import Settings


async def stop_here() -> None:
    print("here", flush=True)  # noqa: T201
    await asyncio.Event().wait()


async def main(dsn: str, moment: str) -> None:
    database._SERVER_SETTINGS["application_name"] = "killed"
    schedules.DECIDING_SECONDS = 10.0  # type: ignore[misc]  # all in one turn, however busy the machine is
    insert = schedules.insert_runs

    async def insert_and_stop(connection: Connection, items: Sequence[SlotRun]) -> int:
        inserted = await insert(connection, items)
        if moment == "inserted":
            await stop_here()
        return inserted

    schedules.insert_runs = insert_and_stop
    async with PostgresStore.open(Settings(database_url=dsn)) as store:
        if moment == "moved":
            transaction = store._db.transaction

            async def stopped(work):  # type: ignore[no-untyped-def]
                async def then(connection: Connection):  # type: ignore[no-untyped-def]
                    done = await work(connection)
                    await stop_here()
                    return done

                return await transaction(then)

            store._db.transaction = stopped  # type: ignore[method-assign]
        await store.fire_schedules(100)
        await stop_here()


asyncio.run(main(*sys.argv[1:]))
