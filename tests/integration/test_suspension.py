"""A run that waits gives everything back, is woken once by what it waits for, and goes on where it was."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from milepost.wire.pod import ResolvedWait, Wait
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import ConflictError, InvalidInputError, NotFoundError
from milepost_operator.domain.runs import Ending, QueueIntake, RunView, Timeouts
from milepost_operator.domain.states import Reason
from milepost_operator.settings import Settings
from tests.integration.engine import NS, Pod, apply_task, next_pod, started, trigger

APPROVED = Wait("approve#1", "signal", name="approve")


async def view(store: PostgresStore, name: str) -> RunView:
    return await store.get_run(NS, name)


async def age(store: PostgresStore, run_id: UUID, seconds: float) -> None:
    """All the times of a run's waits and of the run itself were so much earlier."""
    earlier = "{0} = {0} - make_interval(secs => $2)".format
    columns = ", ".join(earlier(c) for c in ("suspended_at", "deadline_at", "run_deadline_at"))
    for update in (f"update waits set {earlier('until')}", f"update runs set {columns}"):
        await store._db.fetch(f"{update} where run_id = $1", run_id, float(seconds))


async def test_a_suspended_run_holds_nothing_and_resumes_in_its_old_place(store: PostgresStore) -> None:
    await store.apply_queue(QueueIntake(NS, "one", "u", 1, 1))
    await apply_task(store, queue="one")
    first, second = await trigger(store), await trigger(store)
    pod = await next_pod(store)
    await pod.write("before")
    assert await pod.suspend(APPROVED) == "suspended"
    seen = await view(store, first.name)
    assert (seen.state, seen.reason, seen.message, seen.attempts_counted) == (
        "suspended",
        "Suspended",
        "waits for signal approve",
        0,
    )
    other = await next_pod(store)  # the only slot is free
    assert other.start.run_id == str(second.run_id)
    third = await trigger(store)
    await store.signal_run(first.run_id, "approve", '{"by": "Zoë", "at": 1.50}')
    assert (await view(store, first.name)).state == "queued"
    await other.succeed()
    again = await next_pod(store)
    assert again.start.run_id == str(first.run_id), "before those that came later"
    assert (again.start.cause, again.start.attempt, again.start.records) == ("resume", 2, 1)
    assert again.start.waits == [ResolvedWait("approve#1", "signal", False, '{"by": "Zoë", "at": 1.50}')]
    attempts = await store.get_attempts(first.run_id)
    assert [(a.reason, a.counted) for a in attempts] == [("Suspended", False), (None, False)]
    assert await again.succeed() == "succeeded"
    await store.cancel_run(third.run_id, "test")


async def test_settling_a_suspension_twice_is_one_suspension(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    pod = await next_pod(store)
    assert await pod.suspend(APPROVED) == await pod.suspend(APPROVED) == "suspended"
    late = await pod.write("late")
    assert isinstance(late, ConflictError)
    await store.pod_ended(pod.session.pod_id, None, Ending(Reason.POD_LOST, "gone", counted=False, infra=True))
    assert (await view(store, run.name)).state == "suspended"


async def test_early_signals_are_taken_in_order_each_once(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    for n in range(3):
        await store.signal_run(run.run_id, "item", str(n))
    assert await store.signal_run(run.run_id, "other", "9", "id-1") == await store.signal_run(
        run.run_id, "other", "8", "id-1"
    )
    for n in range(3):
        pod = await next_pod(store)
        assert await pod.suspend(Wait(f"item#{n + 1}", "signal", name="item")) == "queued"
    pod = await next_pod(store)
    assert [w.value for w in pod.start.waits] == ["0", "1", "2"]
    assert await pod.suspend(Wait("a", "signal", name="other"), Wait("b", "signal", name="other")) == "queued"
    pod = await next_pod(store)
    assert [(w.key, w.value) for w in pod.start.waits[3:]] == [("a", "9")]
    await pod.write("a", "9")
    assert await pod.suspend(Wait("b", "signal", name="other")) == "suspended", "one signal is for one wait"
    await store.signal_run(run.run_id, "other", "10")
    pod = await next_pod(store)
    assert [w.key for w in pod.start.waits] == ["item#1", "item#2", "item#3", "b"], "less what the run recorded"
    assert await pod.succeed() == "succeeded"
    with pytest.raises(ConflictError) as refused:
        await store.signal_run(run.run_id, "other", "1")
    assert refused.value.code == "run-ended"
    with pytest.raises(NotFoundError):
        await store.signal_run(UUID(int=1), "other", "1")


async def test_a_signal_while_the_run_is_queued_waits_for_the_wait_that_is_met_then(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    pod = await next_pod(store)
    await pod.suspend(Wait("raced", "signal", name="go"), Wait("soon", "timer", seconds=0))
    await store.signal_run(run.run_id, "go", "1")
    pod = await next_pod(store)
    assert [w.key for w in pod.start.waits] == ["soon"]
    assert await pod.suspend(Wait("other", "signal", name="go")) == "queued"
    assert [(w.key, w.value) for w in (await next_pod(store)).start.waits] == [("soon", None), ("other", "1")]


async def test_a_timer_wakes_at_its_moment_and_a_wait_met_again_keeps_it(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    nap, call = Wait("nap", "timer", seconds=600), Wait("call", "signal", name="call", seconds=300)
    await (await next_pod(store)).suspend(nap, call)
    assert await store.wake_runs(10) == 0
    await age(store, run.run_id, 301)
    assert await store.wake_runs(10) == 1
    pod = await next_pod(store)
    assert pod.start.waits == [ResolvedWait("call", "signal", True, None)]
    assert await pod.suspend(nap) == "suspended"
    await age(store, run.run_id, 300)
    assert await store.wake_runs(10) == 1
    assert [(w.key, w.timed_out) for w in (await next_pod(store)).start.waits] == [("nap", False), ("call", True)]


async def test_a_moment_that_has_passed_does_not_suspend(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store)
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    assert await (await next_pod(store)).suspend(Wait("t", "timer", until=past)) == "queued"


async def test_a_child_wakes_its_parent_without_a_lock_on_it(store: PostgresStore, settings: Settings) -> None:
    await apply_task(store)
    parent = await trigger(store)
    pod = await next_pod(store)
    child = await trigger(store)
    await store._db.fetch("update runs set parent_run = $2 where run_id = $1", child.run_id, parent.run_id)
    assert await pod.suspend(Wait("child", "child", name=str(child.run_id))) == "suspended"
    work = await next_pod(store)
    async with PostgresStore.open(settings) as other, other._db.pool.acquire() as connection, connection.transaction():
        await connection.execute("select 1 from runs where run_id = $1 for update", parent.run_id)
        async with asyncio.timeout(2):
            assert await work.succeed('{"n": 1}') == "succeeded"
            assert await store.wake_runs(10) == 0, "another replica has it"
    assert await store.wake_runs(10) == 1
    (wait,) = (await next_pod(store)).start.waits
    assert '"state" : "succeeded", "result" : {"n": 1}' in str(wait.value)


async def test_only_a_run_s_own_children_can_be_waited_for(store: PostgresStore) -> None:
    await apply_task(store)
    stranger, _ = await trigger(store), await trigger(store)
    await store.cancel_run(stranger.run_id, "test")
    pod = await next_pod(store)
    with pytest.raises(InvalidInputError, match="is not a child"):
        await pod.suspend(Wait("child", "child", name=str(stranger.run_id)))
    assert await pod.succeed() == "succeeded"


async def test_an_answer_from_outside_counts_once(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    await (await next_pod(store)).suspend(Wait("deploy", "approval"))
    assert not await store.wake_wait(run.run_id, "other", "1")
    assert await store.wake_wait(run.run_id, "deploy", "true")
    assert await store.wake_wait(run.run_id, "deploy", "false")
    assert await store.wake_runs(10) == 1
    assert not await store.wake_wait(run.run_id, "deploy", "false")
    assert [w.value for w in (await next_pod(store)).start.waits] == ["true"]


async def test_cancelling_a_suspended_run_ends_it_and_nothing_wakes_it(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    await (await next_pod(store)).suspend(APPROVED, Wait("t", "timer", seconds=5))
    await store.cancel_run(run.run_id, "test")
    assert (await view(store, run.name)).state == "cancelled"
    await age(store, run.run_id, 10)
    assert await store.wake_runs(10) == 1
    assert await store.wake_runs(10) == 0, "looked at once"
    assert (await view(store, run.name)).state == "cancelled"


async def test_suspending_while_cancelled_ends_cancelled(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    pod = await next_pod(store)
    await store.cancel_run(run.run_id, "test")
    assert await pod.suspend(APPROVED) == "cancelled"


async def test_run_seconds_stand_still_and_the_deadline_does_not(store: PostgresStore) -> None:
    await apply_task(store, timeouts=Timeouts(attempt_seconds=100, run_seconds=100))
    sleeper, late = await trigger(store), await trigger(store)
    for _ in range(2):
        await store.admit(1)
    await store._db.fetch(
        "update runs set deadline_at = clock_timestamp() + interval '1 h' where run_id = $1", late.run_id
    )
    epoch = await store.take_epoch("t")
    for order in await store.take_wanted(epoch, 9):
        await store.launched(epoch, order.pod_id, "job")
        name = f"mp-{order.pod_id}-abcde"
        session = await store.open_session(order.pod_id, NS, "uid", name)
        pod = Pod(store, session, await started(store, session))
        await pod.suspend(APPROVED)
    await age(store, sleeper.run_id, 5000)
    await age(store, late.run_id, 5000)
    assert await store.reap(10) == 1
    ended = await view(store, late.name)
    assert (ended.state, ended.reason) == ("timedOut", "DeadlineExceeded")
    await store.signal_run(sleeper.run_id, "approve", "1")
    assert await store.reap(10) == 0, "the 5000 s of sleep are not the run's"
    await age(store, sleeper.run_id, 101)
    assert await store.reap(10) == 1
    assert (await view(store, sleeper.name)).reason == "RunTimeout"


async def test_a_running_run_ends_at_its_deadline(store: PostgresStore) -> None:
    await apply_task(store)
    run, waiting = await trigger(store), await trigger(store)
    await store.admit(1)
    await store._db.fetch("update runs set deadline_at = clock_timestamp()")
    assert await store.reap(10) == 2
    for one in (run, waiting):
        seen = await view(store, one.name)
        assert (seen.state, seen.reason) == ("timedOut", "DeadlineExceeded")


async def test_a_run_that_is_not_admitted_in_time_expires_unless_its_queue_is_paused(store: PostgresStore) -> None:
    await store.apply_queue(QueueIntake(NS, "still", "u", 1, 1))
    await apply_task(store)
    await apply_task(store, "patient", queue="still")
    late, kept, begun = await trigger(store), await trigger(store, "patient"), await trigger(store)
    await store._db.fetch("update queues set paused = true where name = 'still'")
    await store._db.fetch("update runs set priority = 5 where run_id = $1", begun.run_id)
    await store._db.fetch("update runs set order_at = order_at - interval '1 day' where run_id = $1", begun.run_id)
    assert await store.admit(1) == 1
    await store._db.fetch("update runs set expires_at = clock_timestamp() - interval '1 second'")
    assert await store.expire_queued(10) == 1
    assert [(await view(store, r.name)).state for r in (late, kept, begun)] == ["expired", "queued", "admitted"]
    assert (await view(store, late.name)).reason == "QueueTTL"
