"""Somebody has a run locked (a long transaction, a person in psql): only that run's pod waits for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import asyncpg
import pytest

from milepost.wire.pod import SettleRequest
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.api.batcher import Batcher
from milepost_operator.domain.errors import BusyError, GoneError
from milepost_operator.domain.runs import PodSession
from milepost_operator.settings import Settings
from tests.integration.engine import Pod, apply_task, launch, started, told, trigger


@asynccontextmanager
async def locked(settings: Settings, run_id: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(settings.dsn, server_settings={"search_path": "milepost"})
    async with connection.transaction():
        await connection.execute("select from runs where run_id = $1 for update", run_id)
        yield
    await connection.close()


@pytest.fixture
async def sessions(store: PostgresStore) -> list[PodSession]:
    """Two pods whose attempts can start."""
    await apply_task(store)
    await asyncio.gather(trigger(store), trigger(store))
    return await launch(store)


async def run_of(store: PostgresStore, session: PodSession) -> str:
    (row,) = await store._db.fetch("select run_id from pods where pod_id = $1", session.pod_id)
    return str(row["run_id"])


@pytest.mark.timeout(20)
async def test_a_start_of_a_locked_run_holds_no_other_up(
    store: PostgresStore, settings: Settings, sessions: list[PodSession]
) -> None:
    stuck = sessions[0]
    async with locked(settings, await run_of(store, stuck)):
        first, second = await store.start(sessions, wait=False)
        assert isinstance(first, BusyError)
        assert told(second).attempt == 1
    assert told((await store.start([stuck], wait=False))[0]).attempt == 1


@pytest.mark.timeout(20)
async def test_a_settle_of_a_locked_run_comes_when_it_is_free_and_the_others_at_once(
    store: PostgresStore, settings: Settings, sessions: list[PodSession]
) -> None:
    pods = [Pod(store, session, await started(store, session)) for session in sessions]
    batcher: Batcher[tuple[PodSession, SettleRequest], str] = Batcher(
        partial(store.settle, wait=False), lambda *_: None
    )
    async with locked(settings, pods[0].start.run_id):
        settling = [
            asyncio.create_task(batcher.submit((pod.session, SettleRequest(pod.fence, "succeeded", "1"))))
            for pod in pods
        ]
        assert await settling[1] == "succeeded"
        assert not settling[0].done()
    assert await settling[0] == "succeeded"


async def test_a_run_that_is_gone_is_not_taken_for_a_locked_one(
    store: PostgresStore, sessions: list[PodSession]
) -> None:
    run_id = await run_of(store, sessions[0])
    await store._db.fetch("delete from runs where run_id = $1", run_id)
    (answer,) = await store.start([sessions[0]], wait=False)
    assert isinstance(answer, GoneError)
    await store._db.fetch("update pods set state = 'closed', closed_at = now() where run_id = $1", run_id)
