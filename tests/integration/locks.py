"""Waiting until others wait for a lock, for tests that hold one."""

import asyncio
from typing import Any

import asyncpg

from milepost_operator.adapters.postgres.store import PostgresStore
from tests.integration.engine import (
    eventually,
)


async def blocked(hand: "asyncpg.Connection[asyncpg.Record]", task: "asyncio.Task[Any]", of: int = 1) -> None:
    """Wait until so many statements wait for a lock, or `task` ended without."""
    waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"

    async def check() -> bool:
        # a transaction sees the sessions as they were at its first look
        await hand.execute("select pg_stat_clear_snapshot()")
        return task.done() or await hand.fetchval(waits) >= of

    await eventually(check)


async def waiting_for_locks(store: PostgresStore, sessions: int) -> None:
    waits = "select count(*) as n from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"

    async def check() -> bool:
        return bool((await store._db.fetch(waits))[0]["n"] == sessions)

    await eventually(check)
