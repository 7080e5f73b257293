"""Queues are paused and resized while runs are admitted and start: rows that hold, and races with one winner."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.breaker import Policy
from milepost_operator.domain.errors import ConflictError, GoneError, NotFoundError
from milepost_operator.domain.runs import PodSession, QueueIntake
from milepost_operator.settings import Settings
from tests.integration.engine import NS, Pod, apply_task, eventually, launch, next_pod, started, trigger

Q = "agents"


async def queue(store: PostgresStore, concurrency: int | None = 4, generation: int = 1, **changes: object) -> None:
    await store.apply_queue(QueueIntake(NS, Q, "uid-q", generation, concurrency, **changes))  # type: ignore[arg-type]


@pytest.fixture
async def busy(store: PostgresStore) -> PostgresStore:
    """A queue of four slots, and a Task that uses it."""
    await queue(store)
    await apply_task(store, queue=Q)
    return store


async def rows(store: PostgresStore, columns: str, order: str = "created_at") -> list[tuple[object, ...]]:
    found = await store._db.fetch(f"select {columns} from runs where queue = $1 order by {order}, run_id", Q)
    return [tuple(row) for row in found]


async def states(store: PostgresStore) -> list[str]:
    return [str(state) for (state,) in await rows(store, "state")]


async def resume(store: PostgresStore) -> None:
    """A run that was put back is below the claim's low-water mark: it is found within 100 ms."""
    await store.resume_queue(NS, Q)
    await asyncio.sleep(0.1)


async def start_or_gone(store: PostgresStore, session: PodSession) -> bool:
    try:
        await started(store, session)
    except GoneError:
        return False
    return True


async def test_a_paused_queue_admits_nothing_until_it_is_resumed(busy: PostgresStore) -> None:
    await trigger(busy)
    assert await busy.pause_queue(NS, Q, "alice", "upgrade") == 0
    assert await busy.admit(100) == 0
    view = await busy.get_queue(NS, Q)
    assert view.pause is not None
    assert (view.pause.by, view.pause.reason, view.depth, view.running) == ("alice", "upgrade", 1, 0)
    await busy.resume_queue(NS, Q)
    assert (await busy.get_queue(NS, Q)).pause is None
    assert await busy.admit(100) == 1


async def test_runs_that_were_admitted_go_back_to_their_place(busy: PostgresStore) -> None:
    for _ in range(6):
        await trigger(busy)
    before = await rows(busy, "run_id, order_at, ready_at")
    sessions = await launch(busy)
    at_work = Pod(busy, sessions[0], await started(busy, sessions[0]))
    assert await busy.pause_queue(NS, Q, "alice") == 3
    assert sorted(await states(busy)) == ["queued"] * 5 + ["running"]
    assert await rows(busy, "run_id, order_at, ready_at") == before
    assert await rows(busy, "attempts_counted, infra_streak, next_cause, reason") == [(0, 0, "first", None)] * 6
    ended = await busy._db.fetch("select reason, counted, infra, state from attempts where state = 'ended'")
    assert [tuple(one) for one in ended] == [("Paused", False, False, "ended")] * 3
    pods = await busy._db.fetch("select state from pods where run_id <> $1", UUID(at_work.start.run_id))
    assert {pod["state"] for pod in pods} == {"closing"}
    for session in sessions[1:]:
        with pytest.raises(GoneError):
            await started(busy, session)
    assert await at_work.succeed() == "succeeded"
    await resume(busy)
    again = await launch(busy)
    assert len(again) == 4
    begun = [await started(busy, session) for session in again]
    assert [(one.attempt, one.cause) for one in begun] == [(2, "first")] * 3 + [(1, "first")]


async def test_a_pause_keeps_the_cause_of_a_retry(busy: PostgresStore) -> None:
    await trigger(busy)
    assert await (await next_pod(busy)).fail() == "backoff"
    await launch(busy)
    assert await busy.pause_queue(NS, Q, "alice") == 1
    assert await rows(busy, "next_cause, attempts_counted, attempt") == [("retry", 1, 2)]
    await resume(busy)
    assert (await next_pod(busy)).start.cause == "retry"


async def test_a_pause_outlives_manifests_and_restarts(busy: PostgresStore, settings: Settings) -> None:
    await trigger(busy)
    await busy.pause_queue(NS, Q, "alice")
    await busy.change_queue(NS, Q, "bob", 2)
    await queue(busy, 9, generation=2)
    async with PostgresStore.open(settings) as other:
        assert await other.admit(100) == 0
        view = await other.get_queue(NS, Q)
    assert view.pause is not None
    assert view.override is not None
    assert (view.pause.by, view.limit, view.spec_limit, view.override.by) == ("alice", 2, 9, "bob")
    await busy.change_queue(NS, Q, "bob", None)
    assert (await busy.get_queue(NS, Q)).limit == 9


async def test_a_manifest_pauses_and_only_a_manifest_resumes(busy: PostgresStore) -> None:
    for _ in range(3):
        await trigger(busy)
    sessions = await launch(busy)
    await started(busy, sessions[0])
    await queue(busy, generation=2, paused=True)
    assert sorted(await states(busy)) == ["queued", "queued", "running"]
    view = await busy.get_queue(NS, Q)
    assert view.pause is not None
    assert view.pause.by is None
    with pytest.raises(ConflictError, match="paused by its manifest"):
        await busy.resume_queue(NS, Q)
    await busy.pause_queue(NS, Q, "alice")
    await queue(busy, generation=3, paused=False)
    assert await busy.admit(100) == 0
    await resume(busy)
    assert await busy.admit(100) == 2


async def test_the_queue_default_forgets_what_its_manifest_said(busy: PostgresStore) -> None:
    await apply_task(busy, "plain")
    await busy.apply_queue(QueueIntake(NS, "default", "uid-d", 1, 5, paused=True, breaker=Policy(3)))
    await trigger(busy, "plain")
    assert await busy.admit(100) == 0
    await busy.remove_queue(NS, "default", "uid-d")
    view = await busy.get_queue(NS, "default")
    assert (view.pause, view.breaker, view.limit) == (None, None, 3)
    assert await busy.admit(100) == 1


async def test_a_second_pause_changes_the_reason_only(busy: PostgresStore) -> None:
    await busy.pause_queue(NS, Q, "alice", "one")
    first = (await busy.get_queue(NS, Q)).pause
    await busy.pause_queue(NS, Q, "bob", "two")
    second = (await busy.get_queue(NS, Q)).pause
    assert first is not None
    assert second is not None
    assert (second.by, second.since, second.reason) == ("alice", first.since, "two")


async def test_what_is_not_there_is_not_found(busy: PostgresStore) -> None:
    for call in (
        busy.pause_queue(NS, "nope", "alice"),
        busy.resume_queue("elsewhere", Q),
        busy.change_queue(NS, "nope", "alice", 3),
        busy.get_queue(NS, "nope"),
        busy.bump_run(UUID(int=7)),
        busy.why(UUID(int=7)),
    ):
        with pytest.raises(NotFoundError):
            await call


async def test_the_ttl_of_a_paused_queue_stands_still(busy: PostgresStore) -> None:
    runs = [(await trigger(busy)).run_id for _ in range(3)]
    give = "update runs set expires_at = created_at + interval '100 seconds' where run_id = any($1)"
    await busy._db.fetch(give, runs[:2])
    await busy.pause_queue(NS, Q, "alice")
    await busy._db.fetch("update queues set held_since = held_since - interval '1 hour' where name = $1", Q)
    await busy._db.fetch("update runs set created_at = created_at - interval '10 minutes' where run_id = $1", runs[0])
    await busy._db.fetch("update runs set created_at = created_at - interval '2 hours' where run_id = $1", runs[1])
    before = dict(await rows(busy, "run_id, expires_at"))  # type: ignore[arg-type]
    await busy.resume_queue(NS, Q)
    after = dict(await rows(busy, "run_id, expires_at"))  # type: ignore[arg-type]
    # created during the pause: what is left of it; before: all of it; without a TTL: nothing
    given = [after[run] and after[run] - before[run] for run in runs]
    assert timedelta(minutes=10) <= given[0] < timedelta(minutes=10, seconds=5)
    assert timedelta(hours=1) <= given[1] < timedelta(hours=1, seconds=5)
    assert given[2] is None


async def test_a_start_and_a_pause_have_one_winner(busy: PostgresStore, settings: Settings) -> None:
    await busy.change_queue(NS, Q, "bob", 24)
    for _ in range(24):
        await trigger(busy)
    put_back = begun = 0
    async with PostgresStore.open(settings) as other:
        for turn in range(8):
            sessions = await launch(busy)
            pausing = asyncio.create_task(other.pause_queue(NS, Q, "alice"))
            await asyncio.sleep(0.002 * turn)
            won = await asyncio.gather(*(start_or_gone(busy, session) for session in sessions))
            back = await pausing
            assert sum(won) + back == len(sessions)
            put_back, begun = put_back + back, begun + sum(won)
            for session, mine in zip(sessions, won, strict=True):
                if mine:
                    await Pod(busy, session, await started(busy, session)).succeed()
            assert {"admitted", "running"}.isdisjoint(await states(busy))
            assert set((await busy.violations()).values()) == {0}
            await resume(busy)
    assert put_back + begun > 0


async def test_no_admission_commits_after_a_pause(busy: PostgresStore, settings: Settings) -> None:
    for _ in range(120):
        await trigger(busy)
    await busy.change_queue(NS, Q, "bob", 1000)
    stop = asyncio.Event()

    async def admitting(store: PostgresStore) -> None:
        while not stop.is_set():
            await store.admit(1)
            await asyncio.sleep(0)

    async with PostgresStore.open(settings) as one, PostgresStore.open(settings) as two:
        workers = [asyncio.create_task(admitting(store)) for store in (one, two)]
        for _ in range(6):
            await asyncio.sleep(0.03)
            await busy.pause_queue(NS, Q, "alice")
            held = await busy._db.fetchrow("select count(*) as n, clock_timestamp() as at from attempts")
            assert "admitted" not in await states(busy)
            await asyncio.sleep(0.03)
            late = await busy._db.fetch("select attempt from attempts where reserved_at > $1", held["at"])
            assert list(late) == []
            assert "admitted" not in await states(busy)
            await busy.resume_queue(NS, Q)
        stop.set()
        await asyncio.gather(*workers)


async def test_a_limit_changed_under_load_binds_each_admission(busy: PostgresStore, settings: Settings) -> None:
    for _ in range(60):
        await trigger(busy)
    stop = asyncio.Event()

    async def admitting(store: PostgresStore) -> None:
        while not stop.is_set():
            await store.admit(3)
            await asyncio.sleep(0)

    async def taken() -> int:
        return (await busy.get_queue(NS, Q)).running

    async def at_least(slots: int) -> bool:
        return await taken() >= slots

    async with PostgresStore.open(settings) as one, PostgresStore.open(settings) as two:
        workers = [asyncio.create_task(admitting(store)) for store in (one, two)]
        for limit in (6, 11, 3, 17, 1):
            await busy.change_queue(NS, Q, "bob", limit)
            held = await taken()  # what was admitted under the limit before goes on
            await eventually(lambda limit=limit: at_least(limit))  # type: ignore[misc]
            await asyncio.sleep(0.05)
            assert await taken() == max(limit, held)
        stop.set()
        await asyncio.gather(*workers)


async def test_a_bumped_run_is_next_and_once(busy: PostgresStore) -> None:
    runs = [(await trigger(busy)).run_id for _ in range(6)]
    await busy.bump_run(runs[5])
    await busy.bump_run(runs[5])
    await busy.change_queue(NS, Q, "bob", 1)
    first = await next_pod(busy)
    assert UUID(first.start.run_id) == runs[5]
    with pytest.raises(ConflictError, match=r"is running: only a run that is queued"):
        await busy.bump_run(runs[5])
    await first.fail()
    await asyncio.sleep(0.1)
    assert UUID((await next_pod(busy)).start.run_id) == runs[0]
