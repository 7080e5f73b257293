"""Interleavings that lose, double or strand work: several stores over one database, as replicas have them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from milepost.wire.pod import Evidence, Failure, SettleRequest
from milepost_operator.adapters.postgres.errors import translated
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.schedule_rows import put_schedule
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import DeposedError, GoneError, PrunedError, UnavailableError
from milepost_operator.domain.runs import Ending, NewRun, QueueIntake, Semaphore
from milepost_operator.domain.schedules import ScheduleSpec
from milepost_operator.domain.slots import begin
from milepost_operator.domain.states import Reason
from milepost_operator.settings import Settings
from tests.integration.engine import (
    NS,
    Pod,
    apply_task,
    eventually,
    launch,
    lose,
    next_pod,
    served_for,
    started,
    trigger,
)
from tests.integration.test_warm import following, launch_warm, warm_pod

LOST = Ending(Reason.POD_LOST, "gone", counted=False, infra=True)


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[PostgresStore]:
    """A second replica."""
    async with PostgresStore.open(settings) as opened:
        yield opened


@pytest.fixture
async def hand(settings: Settings) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection whose transactions the test itself holds open."""
    connection = await asyncpg.connect(settings.dsn, server_settings={"search_path": "milepost"})
    yield connection
    await connection.close()


async def view(store: PostgresStore, name: str) -> Any:
    return await store.get_run(NS, name)


async def blocked(hand: "asyncpg.Connection[asyncpg.Record]", task: "asyncio.Task[Any]", of: int = 1) -> None:
    """Wait until so many statements wait for a lock, or `task` ended without."""
    waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"

    async def check() -> bool:
        # a transaction sees the sessions as they were at its first look
        await hand.execute("select pg_stat_clear_snapshot()")
        return task.done() or await hand.fetchval(waits) >= of

    await eventually(check)


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


async def task_row(hand: "asyncpg.Connection[asyncpg.Record]") -> dict[str, Any]:
    row = await hand.fetchrow("select * from tasks")
    assert row
    return dict(row)


async def test_an_older_generation_that_comes_late_wins_nothing(
    store: PostgresStore, other: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await apply_task(store, shape={"entrypoint": "a:old"}, restart="a", queue="slow")
    version = await apply_task(
        store, generation=2, warm={"min": 2}, network={"egress": "none"}, prepull=True, restart="b"
    )
    assert await store.prewarm() == 2
    before = await task_row(hand)
    pods = await hand.fetch("select * from pods")
    assert [pod["state"] for pod in pods] == ["ahead", "ahead"]
    changes: dict[str, object] = {"shape": {"entrypoint": "a:older"}, "retention": {"success_seconds": 5}}
    assert await apply_task(other, warm={"seconds": 5}, restart="a", queue="slow", **changes) == version
    assert await task_row(hand) == before
    assert await hand.fetch("select * from pods") == pods
    assert await hand.fetchval("select max(version) from task_versions") == version
    # one that is gone, or is another Task of its name, takes what it is told
    await apply_task(other, uid="uid-2", warm={"seconds": 5}, restart="a")
    assert [(await task_row(hand))[key] for key in ("uid", "generation", "warm", "network", "restart")] == [
        "uid-2",
        1,
        '{"seconds":5}',
        None,
        "a",
    ]


async def test_schedules_that_waited_for_a_lock_are_of_an_older_generation_by_then(
    store: PostgresStore, other: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    daily = ScheduleSpec("@daily")
    await apply_task(store)
    await store.apply_schedules(NS, "index", [("a", daily)], uid="uid-index", generation=1)
    async with hand.transaction():
        await hand.execute(Q["lock_schedules_of_task"], "default", NS, "index")
        old = asyncio.create_task(
            store.apply_schedules(NS, "index", [("a", daily), ("old", daily)], uid="uid-index", generation=1)
        )
        await blocked(hand, old)
        await apply_task(other, generation=2)
    assert await old == []
    assert [one.name for one in await store.list_schedules(NS)] == ["a"]


async def test_a_task_changes_once_the_schedules_of_its_generation_are_in(
    store: PostgresStore, other: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    daily, schedule_id = ScheduleSpec("@daily"), uuid4()
    await apply_task(store)
    begun = hand.transaction()
    await begun.start()  # a schedule of this name, which will not have been
    key = (schedule_id, "default", NS, "index", "a")
    decision = begin(schedule_id, daily, 0)
    assert await put_schedule(hand, key, daily, decision, managed=True, active=True, paused_by=None)
    old = asyncio.create_task(store.apply_schedules(NS, "index", [("a", daily)], uid="uid-index", generation=1))
    await blocked(hand, old)
    newer = asyncio.create_task(apply_task(other, generation=2))
    await blocked(hand, newer, of=2)
    assert not newer.done()
    await begun.rollback()
    assert (await old, await newer) == ([], 1)
    await other.apply_schedules(NS, "index", [], uid="uid-index", generation=2)
    assert await store.list_schedules(NS) == []


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


async def test_a_deposed_leader_does_not_delete_the_job_its_successor_adopts(
    store: PostgresStore, other: PostgresStore
) -> None:
    await apply_task(store)
    await trigger(store)
    await store.admit(10)
    first = await store.take_epoch("a")
    (order,) = await store.take_wanted(first, 10)
    second = await other.take_epoch("b")
    (same,) = await other.take_wanted(second, 10)
    assert same.pod_id == order.pod_id
    with pytest.raises(DeposedError):  # False would have it delete the Job
        await store.launched(first, order.pod_id, "job")
    assert await other.launched(second, order.pod_id, "job")


async def test_what_a_deposed_leader_saw_ends_no_attempt_of_its_successor(
    store: PostgresStore, other: PostgresStore
) -> None:
    await apply_task(store)
    run = await trigger(store)
    await store.admit(10)
    first = await store.take_epoch("a")
    (order,) = await store.take_wanted(first, 10)
    second = await other.take_epoch("b")
    (same,) = await other.take_wanted(second, 10)
    assert await other.launched(second, same.pod_id, "job")
    session = await other.open_session(same.pod_id, NS, "uid", f"mp-{same.pod_id}-abcde")
    pod = Pod(other, session, await started(other, session))
    # it was stopped while the API server refused its pod, and goes on with that: final, and no pod uid to compare
    refused = Ending(Reason.CONFIG, "the pod can't be created", counted=False, final=True, started=False)
    with pytest.raises(DeposedError):
        await store.pod_ended(first, order.pod_id, None, refused)
    assert ((await view(store, run.name)).state, await pod.write("a")) == ("running", [1])


async def test_a_pod_that_spoke_meanwhile_is_not_ended_as_one_that_did_not_come(
    store: PostgresStore, other: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await apply_task(store)
    run = await trigger(store)
    await store.admit(10)
    epoch = await store.take_epoch("a")
    (order,) = await store.take_wanted(epoch, 10)
    assert await store.launched(epoch, order.pod_id, "job")
    (seen,) = await store.open_pods()
    assert (seen.state, seen.pod_uid) == ("created", None)
    hopeless = Ending(Reason.CONFIG, "secret not found", counted=False, final=True, started=False)
    async with hand.transaction():  # as the sidecar speaks the leader has looked already
        await hand.execute("update pods set state = 'bound', pod_uid = 'uid' where pod_id = $1", order.pod_id)
        end = asyncio.create_task(store.pod_ended(epoch, seen.pod_id, seen.pod_uid, hopeless, unheard=True))
        await blocked(hand, end)
    assert await end is False
    session = await other.open_session(order.pod_id, NS, "uid", f"mp-{order.pod_id}-abcde")
    pod = Pod(other, session, await started(other, session))
    assert await store.pod_ended(epoch, seen.pod_id, seen.pod_uid, hopeless, unheard=True) is False
    assert ((await view(store, run.name)).state, await pod.write("a")) == ("running", [1])
    # that it is gone ends it, though nobody saw it start
    gone = Ending(Reason.POD_LOST, "gone", counted=False, infra=True, started=False)
    assert await store.pod_ended(epoch, seen.pod_id, seen.pod_uid, gone) is True
    assert (await view(store, run.name)).state in {"queued", "backoff"}


async def test_a_pod_that_does_not_come_is_ended(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    await store.admit(10)
    epoch = await store.take_epoch("a")
    (order,) = await store.take_wanted(epoch, 10)
    assert await store.launched(epoch, order.pod_id, "job")
    hopeless = Ending(Reason.CONFIG, "secret not found", counted=False, final=True, started=False)
    assert await store.pod_ended(epoch, order.pod_id, None, hopeless, unheard=True) is True
    assert (await view(store, run.name)).state == "failed"


async def test_a_job_of_a_row_that_closed_meanwhile_is_to_be_deleted(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    await store.admit(10)
    epoch = await store.take_epoch("a")
    (order,) = await store.take_wanted(epoch, 10)
    await store.cancel_run(run.run_id, "me")
    await store.take_epoch("b")
    assert not await store.launched(epoch, order.pod_id, "job")


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


async def waiting_for_locks(store: PostgresStore, sessions: int) -> None:
    waits = "select count(*) as n from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"

    async def check() -> bool:
        return bool((await store._db.fetch(waits))[0]["n"] == sessions)

    await eventually(check)


@pytest.mark.parametrize("before", [5, None])
@pytest.mark.parametrize("queues", [("wide",), ("wide", "side")])
async def test_a_tasks_limit_that_is_lowered_during_a_claim_waits_for_it(
    store: PostgresStore,
    other: PostgresStore,
    hand: "asyncpg.Connection[asyncpg.Record]",
    before: int | None,
    queues: tuple[str, ...],
) -> None:
    runs = []
    for queue in queues:
        await store.apply_queue(QueueIntake(NS, queue, "u", 1, 100))
        await apply_task(store, queue=queue, concurrency=before)
        runs += [await trigger(store) for _ in range(5)]
    async with hand.transaction():
        # the claim has looked at the Task, and has not committed, whichever queue it began with
        await hand.execute("select from run_heads where run_id = any($1) for update", [run.run_id for run in runs])
        claim = asyncio.create_task(store.admit(10))
        await blocked(hand, claim)
        lower = asyncio.create_task(apply_task(other, queue="wide", concurrency=1, generation=2))
        done, _ = await asyncio.wait([lower], timeout=0.3)
        assert not done
    assert await claim > 0
    await lower
    assert await store.admit(10) == 0
    (late,) = await store._db.fetch(
        "select count(*) as n from attempts a join runs r using (run_id, attempt) join tasks t on t.name = r.task"
        " where a.reserved_at > t.updated_at"
    )
    assert late["n"] == 0, "what was admitted was admitted before"


async def test_a_claim_waits_for_no_task_that_is_changing(
    store: PostgresStore, other: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await store.apply_queue(QueueIntake(NS, "wide", "u", 1, 100))
    await apply_task(store, queue="wide", concurrency=5)
    await trigger(store)
    await trigger(store)
    async with hand.transaction():
        await hand.execute("select from tasks where name = 'index' for update")
        lower = asyncio.create_task(apply_task(other, queue="wide", concurrency=1, generation=2))
        await blocked(hand, lower)
        assert await store.admit(10) == 2, "within the limit that stands"
    await lower
    await trigger(store)
    assert await store.admit(10) == 0


@pytest.mark.parametrize(("concurrency", "meanwhile", "after"), [(1, 0, 1), (5, 2, 0)])
async def test_nothing_is_claimed_while_limits_change_and_all_goes_on_while_they_do_not(  # noqa: PLR0917
    store: PostgresStore,
    other: PostgresStore,
    hand: "asyncpg.Connection[asyncpg.Record]",
    concurrency: int,
    meanwhile: int,
    after: int,
) -> None:
    await store.apply_queue(QueueIntake(NS, "wide", "u", 1, 100))
    await apply_task(store, queue="wide", concurrency=5)
    await trigger(store)
    await trigger(store)
    async with hand.transaction():
        await hand.execute("lock table task_checks in access exclusive mode")  # it has written its limits by then
        change = asyncio.create_task(apply_task(other, queue="wide", concurrency=concurrency, generation=2))
        await blocked(hand, change)
        assert await store.admit(10) == meanwhile
    await change
    assert await store.admit(10) == after


async def test_a_semaphore_that_is_lowered_during_a_claim_waits_for_it(
    store: PostgresStore, other: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await store.apply_queue(QueueIntake(NS, "wide", "u", 1, 100))
    await apply_task(store, queue="wide", semaphores=[Semaphore("gpu", 5)])
    runs = [await trigger(store) for _ in range(5)]
    async with hand.transaction():
        await hand.execute("select from run_heads where run_id = $1 for update", runs[0].run_id)
        claim = asyncio.create_task(store.admit(10))
        await blocked(hand, claim)
        # another Task has the last word on what they share
        shared = [Semaphore("gpu", 1), Semaphore("gpu", 1), Semaphore("cpu", 1)]
        lower = asyncio.create_task(apply_task(other, "second", queue="wide", semaphores=shared))
        done, _ = await asyncio.wait([lower], timeout=0.3)
        assert not done
    assert await claim == 5
    await lower
    assert {r["name"] for r in await store._db.fetch("select name from limits where kind = 'semaphore'")} == {
        "gpu",
        "cpu",
    }
    assert await store.admit(10) == 0


async def test_a_pod_of_before_a_restart_takes_no_run_though_it_came_to_rest_after(
    store: PostgresStore, other: PostgresStore, hand: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await apply_task(store)
    pod = await warm_pod(store)
    async with hand.transaction():  # the settle has seen that the pod may stay, and waits to write it
        await hand.execute("select from run_heads for update")
        settle = asyncio.create_task(pod.succeed())
        await blocked(hand, settle)
        await apply_task(other, restart="2026-01-01T00:00:00Z")
        run = await trigger(other)
        await other.admit(10)
    assert await settle == "succeeded"
    with suppress(GoneError):
        assert not await following(store, pod.session)
    await store.hand_over()
    (given,) = await store._db.fetch("select pod_id from attempts where run_id = $1", run.run_id)
    assert given["pod_id"] != pod.session.pod_id
    await store.keep_warm()
    (session,) = await launch_warm(store)
    assert (await started(store, session)).run_id == str(run.run_id)


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
