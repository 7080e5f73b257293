"""Sessions that Postgres ends: what they were asked is not acknowledged, and nobody sees more of it than a 503."""

import asyncio
from contextlib import suppress

import asyncpg

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import UnavailableError
from milepost_operator.settings import Settings
from tests.integration.engine import apply_task, next_pod, trigger

END_ALL = (
    "select pg_terminate_backend(pid) from pg_stat_activity"
    " where datname = current_database() and pid <> pg_backend_pid()"
)


async def test_a_session_that_ended_while_it_was_idle_is_an_outage_and_no_bug(
    store: PostgresStore, settings: Settings
) -> None:
    await apply_task(store)
    hand = await asyncpg.connect(settings.dsn)
    for _ in range(8):
        await asyncio.gather(*[trigger(store) for _ in range(4)])
        await hand.execute(END_ALL)
        with suppress(UnavailableError):
            await trigger(store)
        for _ in range(10):  # as many as the pool has
            with suppress(UnavailableError):
                await trigger(store)
    assert await trigger(store)
    await hand.close()


async def test_records_are_taken_again_after_their_session_ended(store: PostgresStore, settings: Settings) -> None:
    await apply_task(store)
    await trigger(store)
    pod = await next_pod(store)
    hand = await asyncpg.connect(settings.dsn)
    for n in range(5):
        assert await pod.write(f"before/{n}")
        await hand.execute(END_ALL)
        for _ in range(12):  # as many as the pool has, and some
            with suppress(UnavailableError):
                await pod.write(f"while/{n}")
        assert isinstance(await pod.write(f"after/{n}"), list)
    await hand.close()
