"""Somebody has a run locked (a long transaction, a person in psql): only what that run needs waits for it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import asyncpg
import pytest

from milepost.wire.pod import SettleRequest
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.api.batcher import Batcher
from milepost_operator.domain.errors import BusyError, GoneError
from milepost_operator.domain.runs import PodSession
from milepost_operator.domain.schedules import Fired, ScheduleSpec
from milepost_operator.settings import Settings
from tests.integration.engine import NS, Pod, apply_task, launch, served_for, started, told, trigger


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


@pytest.mark.timeout(20)
async def test_a_schedule_that_replaces_a_locked_run_stays_due_and_the_others_fire(
    store: PostgresStore, settings: Settings
) -> None:
    await apply_task(store)
    each = ScheduleSpec(f"{datetime.now(UTC).second} * * * * *")
    await store.apply_schedules(
        NS, "index", [("replacing", replace(each, overlap="replace")), ("plain", each)], uid="uid-index", generation=1
    )
    due = (
        "update schedules set cursor_at = clock_timestamp() - interval '1 minute',"
        " next_at = clock_timestamp() - interval '1 minute', due_at = clock_timestamp()"
    )
    count = "select s.name, count(*) as n from schedules s join runs using (schedule_id) group by 1"

    async def runs() -> dict[str, int]:
        return {row["name"]: row["n"] for row in await store._db.fetch(count)}

    await store._db.fetch(due)
    assert (await store.fire_schedules(10)).runs == 2
    await store._db.fetch("update runs set slot = slot || ' earlier'")
    (older,) = await store._db.fetch(
        "select run_id from runs join schedules using (schedule_id) where schedules.name = 'replacing'"
    )
    await store._db.fetch(due)
    async with locked(settings, str(older["run_id"])):
        assert await store.fire_schedules(10) == Fired(1, 1)
        assert await runs() == {"replacing": 1, "plain": 2}
    assert await store.fire_schedules(10) == Fired(1, 1)
    assert await runs() == {"replacing": 2, "plain": 2}
    (replaced,) = await store._db.fetch("select state from runs where run_id = $1", older["run_id"])
    assert replaced["state"] == "cancelled"


@pytest.mark.timeout(20)
async def test_a_locked_run_that_is_overdue_keeps_no_other_from_its_end(
    store: PostgresStore, settings: Settings, sessions: list[PodSession]
) -> None:
    pods = [Pod(store, session, await started(store, session)) for session in sessions]
    await store._db.fetch("update run_heads set lease_until = now()")
    await served_for(store, "1 h")
    async with locked(settings, pods[0].start.run_id):
        async with asyncio.timeout(3):  # it would wait for five seconds
            assert await store.reap(10) == 1
        states = await store._db.fetch("select state from runs where run_id = $1", UUID(pods[0].start.run_id))
        assert [row["state"] for row in states] == ["running"]
    assert await store.reap(10) == 1


@pytest.mark.timeout(20)
async def test_a_locked_run_that_waits_past_its_deadline_keeps_no_other_from_its_end(
    store: PostgresStore, settings: Settings
) -> None:
    await apply_task(store)
    made = [await trigger(store, deadline_seconds=60) for _ in range(2)]
    await store._db.fetch("update runs set deadline_at = now()")
    async with locked(settings, str(made[0].run_id)):
        async with asyncio.timeout(3):
            assert await store.reap(10) == 1
        assert (await store.get_run(NS, made[0].name)).state == "queued"
    assert await store.reap(10) == 1
    assert {(await store.get_run(NS, run.name)).state for run in made} == {"timedOut"}
