"""Why runs wait, observed on real rows: one reason, its numbers, and the next moment; and when objects are told."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from milepost.wire.pod import Wait
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.breaker import Policy
from milepost_operator.domain.runs import QueueIntake, Retry
from tests.integration.engine import NS, Pod, apply_task, launch, next_pod, started, trigger

Q = "agents"


async def apply(store: PostgresStore, concurrency: int | None = 2, generation: int = 1, **changes: object) -> None:
    await store.apply_queue(QueueIntake(NS, Q, "uid-q", generation, concurrency, **changes))  # type: ignore[arg-type]


@pytest.fixture
async def busy(store: PostgresStore) -> PostgresStore:
    await apply(store)
    await apply_task(store, queue=Q, retry=Retry(max_attempts=3, min_seconds=600, max_seconds=600, randomize=False))
    return store


async def told(store: PostgresStore, run_id: UUID) -> tuple[str, str]:
    why = await store.why(run_id)
    assert why is not None
    return why.code, why.sentence


async def change(store: PostgresStore, what: str, *args: object) -> None:
    await store._db.fetch(what, *args)


async def keyed(store: PostgresStore, key: str) -> UUID:
    run = (await trigger(store)).run_id
    await change(store, "update runs set state = 'delayed', concurrency_key = $2 where run_id = $1", run, key)
    await change(store, "update runs set state = 'queued' where run_id = $1", run)
    return run


async def test_behind_others(busy: PostgresStore) -> None:
    runs = [(await trigger(busy)).run_id for _ in range(5)]
    assert await told(busy, runs[0]) == ("Queued", "next in `agents`, about to be admitted")
    assert await told(busy, runs[4]) == ("Queued", "behind 4 others in `agents` (limit 2, 0 running)")
    await launch(busy)
    assert await told(busy, runs[2]) == ("QueueFull", "next in `agents` (limit 2, 2 running)")
    assert await told(busy, runs[4]) == ("QueueFull", "behind 2 others in `agents` (limit 2, 2 running)")
    await busy.bump_run(runs[4])
    assert await told(busy, runs[4]) == ("QueueFull", "next in `agents` (limit 2, 2 running)")
    assert await told(busy, runs[2]) == ("QueueFull", "behind 1 other in `agents` (limit 2, 2 running)")


async def test_paused(busy: PostgresStore) -> None:
    run = (await trigger(busy)).run_id
    await busy.pause_queue(NS, Q, "alice", "upgrade")
    code, sentence = await told(busy, run)
    assert code == "Paused"
    assert sentence.startswith("queue `agents` paused by alice since 20")
    assert sentence.endswith(" (upgrade)")


async def test_the_limit_of_its_key(busy: PostgresStore) -> None:
    await change(busy, "update queues set key_concurrency = 1 where name = $1", Q)
    first, second, third = [await keyed(busy, key) for key in ("acme", "acme", "acme")]
    assert len(await launch(busy)) == 1
    assert (await told(busy, first))[0] == "PodPending"
    assert await told(busy, second) == ("KeyLimit", "key `acme` at its limit 1 in `agents`")
    await change(busy, "update queues set key_concurrency = null where name = $1", Q)
    assert await told(busy, third) == ("Queued", "behind 1 other of key `acme` in `agents` (limit 2, 1 running)")


async def test_the_rate(busy: PostgresStore) -> None:
    await change(busy, """update queues set rate = '{"limit": 1, "periodSeconds": 60}' where name = $1""", Q)
    _, second = [(await trigger(busy)).run_id for _ in range(2)]
    assert len(await launch(busy)) == 1
    why = await busy.why(second)
    assert why is not None
    assert why.code == "RateLimited"
    assert why.sentence.startswith("rate 1/1m in `agents`, next token in ")
    assert why.next_at is not None
    assert timedelta(seconds=50) < why.next_at - datetime.now(UTC) < timedelta(seconds=63)
    view = await busy.get_queue(NS, Q)
    assert view.rate is not None
    assert (view.rate_used, view.rate.limit) == (1, 1)


async def test_the_concurrency_and_semaphores_of_its_task(busy: PostgresStore) -> None:
    await change(busy, "update tasks set concurrency = 1")
    _, second = [(await trigger(busy)).run_id for _ in range(2)]
    assert len(await launch(busy)) == 1
    assert await told(busy, second) == ("TaskLimit", "task `index` at its concurrency 1")
    await change(busy, "update tasks set concurrency = null")
    assert (await told(busy, second))[0] == "Queued"


async def test_a_semaphore(busy: PostgresStore) -> None:
    await change(busy, """update tasks set semaphores = '[{"name": "gpu", "limit": 3, "units": 2}]'""")
    _, second = [(await trigger(busy)).run_id for _ in range(2)]
    assert len(await launch(busy)) == 1
    assert await told(busy, second) == ("SemaphoreFull", "semaphore `gpu` full (2 of 3, 2 wanted)")


async def test_an_open_circuit(busy: PostgresStore) -> None:
    await apply(busy, generation=2, breaker=Policy(1, open_seconds=300))
    await trigger(busy)
    await (await next_pod(busy)).fail()
    run = (await trigger(busy)).run_id
    assert await busy.admit(10) == 0
    why = await busy.why(run)
    assert why is not None
    assert why.code == "CircuitOpen"
    assert why.next_at is not None
    assert timedelta(seconds=290) < why.next_at - datetime.now(UTC) < timedelta(seconds=301)


async def test_a_retry(busy: PostgresStore) -> None:
    run = (await trigger(busy)).run_id
    await (await next_pod(busy)).fail()
    why = await busy.why(run)
    assert why is not None
    assert why.code == "Backoff"
    assert why.sentence.startswith("retry 1 of 2 at 20")
    assert why.sentence.endswith(", after TaskFailed")
    assert why.next_at is not None
    assert timedelta(seconds=590) < why.next_at - datetime.now(UTC) < timedelta(seconds=601)


async def test_what_is_missing(busy: PostgresStore) -> None:
    orphan = (await trigger(busy, "nothing")).run_id
    assert await told(busy, orphan) == ("TaskNotFound", "no Task `nothing`: apply it, or delete the run")
    await apply_task(busy, "stray", queue="nowhere")
    stray = (await trigger(busy, "stray")).run_id
    assert await told(busy, stray) == ("QueueNotFound", "no Queue `nowhere`: apply it, or change the Task's queue")
    why = await busy.why(stray)
    assert why is not None
    assert why.next_at is not None


async def test_a_pod_with_the_launchers_note(busy: PostgresStore) -> None:
    run = (await trigger(busy)).run_id
    (session,) = await launch(busy)
    assert (await told(busy, run))[0] == "PodPending"
    await busy.note_pod(session.pod_id, "Unschedulable", "0/3 nodes are available")
    text = "admitted, waiting for a pod (Unschedulable: 0/3 nodes are available)"
    assert await told(busy, run) == ("Unschedulable", text)


async def test_asleep(busy: PostgresStore) -> None:
    run = (await trigger(busy)).run_id
    pod = await next_pod(busy)
    await pod.suspend(Wait("approve#1", "signal", name="approve"), Wait("nap", "timer", seconds=600))
    why = await busy.why(run)
    assert why is not None
    assert why.code == "Suspended"
    assert why.sentence.startswith("suspended, waits for timer `nap` until 20")
    assert why.sentence.endswith(" and 1 more")
    assert why.next_at is not None
    assert timedelta(seconds=590) < why.next_at - datetime.now(UTC) < timedelta(seconds=601)
    await change(busy, """update queues set rate = '{"limit": 1, "periodSeconds": 60}' where name = $1""", Q)
    await trigger(busy)
    await launch(busy)
    await busy.signal_run(run, "approve", "null")
    assert await told(busy, run) == ("Queued", "next in `agents`, about to be admitted"), "a resume needs no token"


async def test_at_work_and_ended(busy: PostgresStore) -> None:
    run = (await trigger(busy)).run_id
    pod = await next_pod(busy)
    assert await told(busy, run) == ("Running", "attempt 1 is at work")
    await pod.succeed()
    assert await busy.why(run) is None


async def shown(store: PostgresStore, run_id: UUID) -> tuple[object, ...]:
    row = await store._db.fetchrow("select reason, message, notes, rev from runs where run_id = $1", run_id)
    return tuple(row or ())


async def looked_at(store: PostgresStore, held: float = 0.0) -> int:
    """A turn of the duty, as if the last one were long ago."""
    await change(store, "update runs set wait_checked_at = null")
    return await store.show_waiting(100, held)


async def with_object(store: PostgresStore) -> UUID:
    run = (await trigger(store)).run_id
    await change(store, "update runs set cr_uid = 'uid' where run_id = $1", run)
    return run


async def test_objects_are_told_a_code_that_held_and_at_most_two(busy: PostgresStore) -> None:
    run, other = await with_object(busy), (await trigger(busy)).run_id
    await busy.pause_queue(NS, Q, "alice", "upgrade")
    assert await looked_at(busy, held=10.0) == 0
    assert await shown(busy, run) == (None, None, 0, 1)
    assert await looked_at(busy) == 1
    assert await shown(busy, run) == ("Paused", None, 1, 2)
    assert await shown(busy, other) == (None, None, 0, 1)
    assert await looked_at(busy) == 0
    await busy.resume_queue(NS, Q)
    assert await looked_at(busy) == 1
    assert await shown(busy, run) == ("Queued", None, 2, 3)
    await busy.pause_queue(NS, Q, "alice")
    assert await looked_at(busy) == 0
    assert await shown(busy, run) == ("Queued", None, 2, 3)


async def test_that_a_run_waits_its_turn_is_no_news(busy: PostgresStore) -> None:
    run = await with_object(busy)
    assert await looked_at(busy) == 0
    assert await shown(busy, run) == (None, None, 0, 1)


async def test_a_note_of_the_launcher_is_shown_once_it_held(busy: PostgresStore) -> None:
    run = await with_object(busy)
    (session,) = await launch(busy)
    _, _, _, rev = await shown(busy, run)
    await busy.note_pod(session.pod_id, "Unschedulable", "0/3 nodes")
    await busy.note_pod(session.pod_id, "Unschedulable", "0/4 nodes")
    assert await shown(busy, run) == ("Unschedulable", "0/4 nodes", 0, rev)
    assert await looked_at(busy, held=10.0) == 0
    assert await looked_at(busy) == 1
    assert await looked_at(busy) == 0
    assert await shown(busy, run) == ("Unschedulable", "0/4 nodes", 1, rev + 1)
    pod = Pod(busy, session, await started(busy, session))
    assert (await shown(busy, run))[:3] == (None, None, 1)
    await pod.succeed()


async def test_replicas_share_the_looking(busy: PostgresStore) -> None:
    for _ in range(6):
        await with_object(busy)
    await busy.pause_queue(NS, Q, "alice")
    shown = await asyncio.gather(*(busy.show_waiting(3, 0.0) for _ in range(4)))
    assert sum(shown) == 6


async def test_queues_are_seen_whole(busy: PostgresStore) -> None:
    oldest = (await trigger(busy)).run_id
    await change(busy, "update runs set ready_at = ready_at - interval '5 minutes' where run_id = $1", oldest)
    await apply_task(busy, "other")
    for _ in range(3):
        await trigger(busy)
        await trigger(busy, "other")
    by_name = {view.name: view for view in await busy.list_queues(NS)}
    assert {name: (v.depth, v.running, v.limit) for name, v in by_name.items()} == {Q: (4, 0, 2), "default": (3, 0, 3)}
    assert by_name[Q].oldest_at is not None
    waited = datetime.now(UTC) - by_name[Q].oldest_at
    assert timedelta(minutes=5) <= waited < timedelta(minutes=5, seconds=10)
    await launch(busy)
    view = await busy.get_queue(NS, Q)
    assert (view.depth, view.running) == (2, 2)
    assert await busy.list_queues("elsewhere") == []
