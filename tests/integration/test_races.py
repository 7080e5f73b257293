"""Interleavings that lose, double or strand work: several stores over one database, as replicas have them."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from milepost.wire.pod import Evidence, Failure, SettleRequest
from milepost_operator.adapters.postgres.errors import translated
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import PrunedError, UnavailableError
from milepost_operator.domain.runs import Ending, NewRun, QueueIntake
from milepost_operator.domain.states import Reason
from tests.integration.engine import (
    NS,
    Pod,
    apply_task,
    launch,
    lose,
    next_pod,
    served_for,
    started,
    trigger,
)
from tests.integration.locks import blocked, waiting_for_locks

LOST = Ending(Reason.POD_LOST, "gone", counted=False, infra=True)


async def view(store: PostgresStore, name: str) -> Any:
    return await store.get_run(NS, name)


async def test_one_intent_taken_in_twice_at_once_is_one_run(store: PostgresStore, other: PostgresStore) -> None:
    await apply_task(store)
    for i in range(10):
        both = [trigger(s, name=f"r{i}", intent_uid=f"uid-{i}", origin="kubectl") for s in (store, other)]
        one, two = await asyncio.gather(*both)
        assert (one.run_id, {one.duplicate, two.duplicate}) == (two.run_id, {True, False})


async def test_a_copied_annotation_takes_no_run_from_its_object(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store, name="first", intent_uid="uid-first", origin="kubectl")
    copy = await trigger(store, name="copy", intent_uid="uid-copy", adopt_run_id=run.run_id, origin="kubectl")
    assert (copy.run_id, copy.name, copy.duplicate) == (run.run_id, "first", True)
    assert (await view(store, "first")).intent_uid == "uid-first"
    await store.forget_cr(NS, "copy", "uid-copy")
    assert (await view(store, "first")).state == "queued"


async def test_a_finished_run_that_is_applied_again_says_that_it_does_not_run(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store, name="nightly", intent_uid="uid-1", origin="kubectl")
    await (await next_pod(store)).succeed()
    await store.forget_cr(NS, "nightly", "uid-1")
    again = await trigger(store, name="nightly", intent_uid="uid-2", origin="kubectl")
    assert (again.run_id, again.duplicate) == (run.run_id, True)
    (item,) = await store.due(10, 15)
    assert (item.cr_uid, item.events[-1].reason) == ("uid-2", "RunAdopted")


async def test_one_key_at_once_from_two_replicas_is_one_run(store: PostgresStore, other: PostgresStore) -> None:
    await apply_task(store)
    for i in range(10):
        made = await asyncio.gather(*[trigger(s, idempotency_key=f"k{i}") for s in (store, other, store, other)])
        assert len({m.run_id for m in made}) == 1
        assert sum(not m.duplicate for m in made) == 1


async def test_a_run_made_while_its_task_comes_is_not_held_for_ever(
    store: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with hand.transaction():  # a trigger that saw no Task yet, and commits after the Task has come
        await apply_task(store, "other")
        run = await trigger(store, task="late")
        await hand.execute("update runs set state = state where run_id = $1", run.run_id)
        await hand.execute("set local lock_timeout = '5s'")
        await hand.execute(
            "insert into tasks select cluster, namespace, 'late', 'u', 1, true, version, queue, retry,"
            " timeouts, now() from tasks"
        )
        await hand.execute(
            "insert into task_versions select cluster, namespace, 'late', version, shape_hash, shape,"
            " null, now() from task_versions"
        )
    assert (await view(store, run.name)).state == "held"
    await store.promote(100)
    assert (await view(store, run.name)).state == "queued"


async def test_a_run_made_while_its_queue_goes_tells_so_and_comes_back(store: PostgresStore) -> None:
    await store.apply_queue(QueueIntake(NS, "q", "u", 1, 2))
    await apply_task(store, queue="q")
    run = await trigger(store)
    # what a trigger leaves that saw the queue before it went, and committed after
    await store._db.fetch("update queues set present = false where name = 'q'")
    await store.reap(100)
    assert ((await view(store, run.name)).state, (await view(store, run.name)).reason) == ("held", "QueueNotFound")
    await store.apply_queue(QueueIntake(NS, "q", "u2", 1, 2))
    await store.promote(100)
    assert (await view(store, run.name)).state == "queued"


async def test_a_retry_waits_visibly_for_a_queue_that_went_meanwhile(store: PostgresStore) -> None:
    await store.apply_queue(QueueIntake(NS, "q", "u", 1, 2))
    await apply_task(store, queue="q")
    run = await trigger(store)
    pod = await next_pod(store)
    await store.remove_queue(NS, "q")
    await pod.fail()
    await store.promote(10)
    await store.reap(100)
    assert ((await view(store, run.name)).state, (await view(store, run.name)).reason) == ("held", "QueueNotFound")


async def test_a_retry_is_not_admitted_once_its_task_went(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    pod = await next_pod(store)
    await store.remove_task(NS, "index")
    await pod.fail()
    assert await launch(store) == []
    assert ((await view(store, run.name)).state, (await view(store, run.name)).reason) == ("held", "TaskNotFound")
    await apply_task(store)
    again = await next_pod(store)
    assert (again.start.attempt, await again.succeed()) == (2, "succeeded")


async def test_a_late_projection_does_not_bring_a_deleted_run_object_back(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store, name="r", intent_uid="uid-r", origin="kubectl")
    await next_pod(store)
    (shown,) = await store.due(10, 15)
    await store.forget_cr(NS, "r", "uid-r")
    await store.projected(run.run_id, shown.view.rev, "uid-r", 2)  # the projector had begun before
    await store.reap(10)  # its end is a change that would be shown
    assert await store.due(10, 15) == []


async def test_a_late_projection_leaves_a_restored_object_its_row(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store, name="r", intent_uid="uid-r", origin="kubectl")
    (shown,) = await store.due(10, 15)
    await trigger(store, name="r", intent_uid="uid-new", origin="kubectl")
    await store.projected(run.run_id, shown.view.rev, "uid-r", 0)
    (again,) = await store.due(10, 15)
    assert again.cr_uid == "uid-new"


async def test_a_retransmission_whose_first_copy_is_in_flight_is_one_record(
    store: PostgresStore, other: PostgresStore
) -> None:
    await apply_task(store)
    await trigger(store)
    pod = await next_pod(store)
    twin = Pod(other, pod.session, pod.start)
    for i in range(30):
        copies = [p.write(f"s{i}", str(i), write_id=f"w{i}") for p in (pod, twin, pod, twin)]
        answers = await asyncio.gather(*copies)
        assert all(a == answers[0] and isinstance(a, list) for a in answers), answers
    assert [k for k, _ in await pod.records()] == [f"s{i}" for i in range(30)]


async def test_an_append_that_waits_for_the_end_of_its_attempt_is_refused(
    store: PostgresStore, other: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await apply_task(store)
    run = await trigger(store)
    pod = await next_pod(store)
    assert await pod.write("a") == [1]
    async with hand.transaction():
        await hand.execute(Q["head_for_ending"], run.run_id)
        ends = asyncio.create_task(lose(other, pod.session.pod_id, LOST))
        await blocked(hand, ends)
        writes = asyncio.create_task(pod.write("b"))
        await asyncio.sleep(0.05)
    answer, _ = await asyncio.gather(writes, ends)
    second = await next_pod(store)
    expected = 1 if isinstance(answer, Exception) else 2
    assert (second.start.last_seq, len(await second.records())) == (expected, expected)


async def test_settle_pod_end_reap_and_cancel_at_once_end_an_attempt_once(
    store: PostgresStore, other: PostgresStore
) -> None:
    await apply_task(store)
    for i in range(15):
        run = await trigger(store, name=f"r{i}")
        pod = await next_pod(store)
        await store._db.fetch("update run_heads set lease_until = now() where run_id = $1", run.run_id)
        await served_for(store, "1 h")
        await asyncio.gather(
            pod.succeed(),
            lose(other, pod.session.pod_id, LOST),
            store.reap(10),
            other.reap(10),
            store.cancel_run(run.run_id, "me"),
            pod.write("late"),
            return_exceptions=True,
        )
        now = await view(store, run.name)
        assert [a.state for a in await store.get_attempts(run.run_id)] == ["ended"], now
        if now.state not in {"succeeded", "cancelled"}:
            await store.cancel_run(run.run_id, "the test")


async def test_two_starts_at_once_are_one_start(store: PostgresStore, other: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    (session,) = await launch(store)
    starts = await asyncio.gather(*[started(s, session) for s in (store, other, store, other)])
    assert {(s.attempt, s.token) for s in starts} == {(1, starts[0].token)}
    events = [e["reason"] for e in await store._db.fetch("select reason from run_events where run_id = $1", run.run_id)]
    assert events.count("AttemptStarted") == 1


async def test_what_a_complete_list_lacks_is_lost_only_when_it_was_shown_before(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    await next_pod(store)
    (shown,) = await store.due(10, 15)
    before = datetime.now(UTC)
    await store.projected(run.run_id, shown.view.rev, "cr", 2)
    assert await store.lost_crs([], before) == 0
    assert await store.lost_crs([], datetime.now(UTC)) == 1
    (again,) = await store.due(10, 15)
    assert again.cr_uid is None


async def test_a_lock_that_can_not_be_had_now_is_no_fault_of_ours(hand: "asyncpg.Connection[asyncpg.Record]") -> None:
    with pytest.raises(UnavailableError), translated():
        await hand.execute("do $$ begin raise lock_not_available; end $$")


async def test_a_record_that_comes_while_the_object_is_written_is_shown_next_time(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store)
    pod = await next_pod(store)
    await pod.write("a")
    (shown,) = await store.due(10, 0)
    await pod.write("b")
    await store.projected(shown.view.run_id, shown.view.rev, "cr", 2, shown=shown.view)
    (again,) = await store.due(10, 0)
    assert (shown.view.last_key, again.view.last_key) == ("a", "b")
    await store.projected(again.view.run_id, again.view.rev, "cr", 2, shown=again.view)
    assert await store.due(10, 0) == []


@pytest.mark.parametrize("what", ["task", "queue"])
async def test_what_waits_for_a_manifest_that_went_is_held_whatever_is_locked_and_however_many(
    store: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]", what: str
) -> None:
    """In one statement they would have to be done in its ten seconds, and all of them would wait for each."""
    await store.apply_queue(QueueIntake(NS, "q", "u", 1, 1))
    await apply_task(store, queue="q")
    await store.create_runs([NewRun(NS, "index", "{}") for _ in range(1000)])
    await trigger(store, delay_seconds=60)
    locked = await trigger(store, name="locked")
    async with hand.transaction():
        await hand.execute("select from runs where run_id = $1 for update", locked.run_id)
        async with asyncio.timeout(30):
            await (store.remove_task(NS, "index") if what == "task" else store.remove_queue(NS, "q"))
    rows = await store._db.fetch("select state, count(*) as n from runs group by 1 order by 1")
    assert [(r["state"], r["n"]) for r in rows] == [("held", 1001), ("queued", 1)]
    await (store.remove_task(NS, "index") if what == "task" else store.remove_queue(NS, "q"))
    assert (await view(store, "locked")).state == "held"


async def test_a_run_that_can_not_be_ended_keeps_no_other_from_its_end(store: PostgresStore) -> None:
    await apply_task(store)
    for _ in range(3):
        await trigger(store)
    for session in await launch(store):
        await started(store, session)
    await store._db.fetch("update run_heads set lease_until = now() - interval '1 min'")
    await served_for(store, "1 h")
    (first, *_) = await store._db.fetch(Q["overdue"], "default", 1, timedelta(seconds=1), None)
    await store._db.fetch("update runs set retry = '{\"unknown\": 1}' where run_id = $1", first["run_id"])
    with pytest.raises(TypeError):
        await store.reap(10)
    states = {r["run_id"]: r["state"] for r in await store._db.fetch("select run_id, state from runs")}
    assert states.pop(first["run_id"]) == "running"
    assert set(states.values()) == {"queued"}
    await store._db.fetch("update runs set retry = '{}' where run_id = $1", first["run_id"])
    assert await store.reap(10) == 1


async def test_replicas_that_queue_runs_of_the_same_keys_in_other_orders_do_not_deadlock(
    store: PostgresStore, other: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """A deadlock costs both a second, and admission with them."""
    await apply_task(store)
    made = [await trigger(store, concurrency_key=key, delay_seconds=60) for key in ("a", "m", "z", "z", "m", "a")]
    for n, run in enumerate(made):
        due = "update runs set ready_at = now() - interval '1 h' + $2 * interval '1 s' where run_id = $1"
        await store._db.fetch(due, run.run_id, n)
    for key in ("a", "m", "z"):
        await store._db.fetch("select make_key('default', $1, 'default', $2)", NS, key)
    async with hand.transaction():
        await hand.execute("select from queue_keys where key = 'm' for update")
        first = asyncio.create_task(store._db.fetch(Q["promote"], "default", 3))
        await waiting_for_locks(store, 1)
        second = asyncio.create_task(other._db.fetch(Q["promote"], "default", 3))
        await waiting_for_locks(store, 2)
    assert [len(rows) for rows in await asyncio.gather(first, second)] == [3, 3]
    (row,) = await store._db.fetch("select deadlocks from pg_stat_database where datname = current_database()")
    assert row["deadlocks"] == 0


async def test_replicas_that_settle_losses_of_the_same_keys_in_other_orders_do_not_deadlock(
    store: PostgresStore, other: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await store.apply_queue(QueueIntake(NS, "wide", "u", 1, 10))
    await apply_task(store, queue="wide")
    pods: list[Pod] = []
    for key in ("a", "m", "z", "z", "m", "a"):
        await trigger(store, concurrency_key=key)
        pods.append(await next_pod(store))
    await store._db.fetch("update queue_keys set tasks = '{}'")  # as at rest

    async def crash(replica: PostgresStore, some: list[Pod]) -> Sequence[object]:
        failure = Failure("crash", "Crash", "signal 9", "")
        return await replica.settle(
            [(p.session, SettleRequest(p.fence, "failed", None, failure, Evidence(signal=9))) for p in some]
        )

    async with hand.transaction():
        await hand.execute("select from queue_keys where key = 'm' for update")
        first = asyncio.create_task(crash(store, pods[:3]))
        await waiting_for_locks(store, 1)
        second = asyncio.create_task(crash(other, pods[3:]))
        await waiting_for_locks(store, 2)
    assert [list(answers) for answers in await asyncio.gather(first, second)] == [["queued"] * 3] * 2
    (row,) = await store._db.fetch("select deadlocks from pg_stat_database where datname = current_database()")
    assert row["deadlocks"] == 0


async def test_a_retry_that_waits_for_the_pruning_of_its_origin_does_not_start_from_zero(
    store: PostgresStore, other: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await apply_task(store)
    run = await trigger(store)
    pod = await next_pod(store)
    await pod.write("paid")
    await pod.succeed()
    async with hand.transaction():  # as the retention does: the run is locked, its head alone changes
        await hand.execute("select from runs where run_id = $1 for no key update", run.run_id)
        await hand.execute(Q["delete_records"], [run.run_id])
        retry = asyncio.create_task(other.retry_run(run.run_id, "me"))
        await blocked(hand, retry)
    with pytest.raises(PrunedError):
        await retry
