"""Pods that are made before there is a run for them: what the rows say at each step, whoever decides at once."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from milepost.wire.pod import NO_ATTEMPT_YET, NextRequest
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import ConflictError, GoneError
from milepost_operator.domain.runs import Ending, PodOrder, PodSession, QueueIntake
from milepost_operator.domain.states import Reason
from milepost_operator.settings import Settings
from tests.integration.engine import NS, Pod, apply_task, lose, started, told, trigger
from tests.integration.test_warm import ago, following, idle_pod, launch_warm, row, state, warm_pod

TROUBLE = Ending(Reason.CONFIG, "no module of that name", counted=False, final=True)


async def orders(store: PostgresStore) -> list[PodOrder]:
    return list(await store.take_wanted(await store.take_epoch("test", "template"), 100))


async def bound(store: PostgresStore, order: PodOrder) -> PodSession:
    """The pod of an order, with a session, before it has imported its task."""
    name = f"mp-{order.pod_id}-abcde"
    return await store.open_session(order.pod_id, order.namespace, f"pod-{order.pod_id}", name, reusable=True)


async def made(store: PostgresStore) -> list[PodSession]:
    """What is to be made ahead becomes pods that wait for work."""
    sessions = [await bound(store, order) for order in await orders(store)]
    for session in sessions:
        assert not await following(store, session)
    return sessions


async def states(store: PostgresStore, task: str = "index") -> list[str]:
    rows = await store._db.fetch(
        "select state from pods where task = $1 and state not in ('closing', 'closed') order by state", task
    )
    return [one["state"] for one in rows]


async def decided(store: PostgresStore) -> list[tuple[Any, ...]]:
    rows = await store._db.fetch("select task, target, keep, cause, held_back from prewarms order by task")
    return [tuple(one) for one in rows]


async def test_the_first_run_of_a_task_finds_a_pod(store: PostgresStore) -> None:
    version = await apply_task(store, shape={"entrypoint": "a:b"}, warm={"min": 2})
    assert await store.prewarm() == 2
    assert await store.prewarm() == 0
    assert await states(store) == ["ahead", "ahead"]
    assert await decided(store) == [("index", 2, 2, "min", None)]
    found = await orders(store)
    assert [order.ahead for order in found] == [True, True]
    assert await store.prewarm() == 0, "those on their way count"
    session = await bound(store, found[0])
    with pytest.raises(ConflictError) as refused:
        await started(store, session)
    assert refused.value.code == NO_ATTEMPT_YET
    code = await store.code_of(session)
    assert (code.version, code.entrypoint, code.source) == (version, "a:b", None)
    assert await state(store, session) == "bound"
    assert (await store.violations())["pods_have_a_purpose"] == 0
    assert not await following(store, session)
    assert await state(store, session) == "idle"
    run = await trigger(store)
    await store.admit(10)
    assert list((await store.hand_over()).pods) == [session.pod_id]
    start = await started(store, session)
    assert (start.run_id, start.attempt) == (str(run.run_id), 1)
    (attempt,) = await store._db.fetch("select cold_reason from attempts")
    assert attempt["cold_reason"] is None, "it was there before its run"
    assert await store.prewarm() == 0, "one at work counts"
    assert await Pod(store, session, start).succeed() == "succeeded"
    assert not await following(store, session)
    assert await states(store) == ["creating", "idle"]


async def test_what_a_minimum_wants_stays_and_comes_back(store: PostgresStore) -> None:
    await apply_task(store, warm={"min": 1, "seconds": 60})
    await store.prewarm()
    (session,) = await made(store)
    await ago(store, "rested_at", 500.0)
    assert await store.keep_warm() == 0
    assert await state(store, session) == "idle"
    await store.retire_pod(await store.take_epoch("test", "template"), session.pod_id, "deleted")
    assert await store.prewarm() == 1
    await apply_task(store, warm={"seconds": 60})
    await store._db.fetch("update tasks set generation = generation")
    assert await store.prewarm() == 0
    assert await states(store) == [], "what nobody launched is not made any more"


async def test_nobody_makes_what_another_one_has_made(store: PostgresStore, settings: Settings) -> None:
    """Replicas that decide at the same moment, again and again."""
    await apply_task(store, warm={"min": 3})
    await apply_task(store, "other", warm={"min": 2})
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(PostgresStore.open(settings)) for _ in range(4)]
        for _ in range(3):
            counts = await asyncio.gather(*(replica.prewarm() for replica in replicas))
        assert sum(counts) == 0
    assert await states(store) == ["ahead"] * 3
    assert await states(store, "other") == ["ahead"] * 2


async def test_the_total_binds_replicas_that_decide_at_once(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        few = settings.model_copy(update={"warm_total": 4})
        replicas = [await stack.enter_async_context(PostgresStore.open(few)) for _ in range(4)]
        for name in ("a", "b", "c"):
            await apply_task(replicas[0], name, warm={"min": 3})
        await asyncio.gather(*(replica.prewarm() for replica in replicas for _ in range(3)))
        rows = await replicas[0]._db.fetch("select count(*) as n from pods")
        assert rows[0]["n"] == 4
        await made(replicas[0])
        assert await replicas[0].keep_warm() == 0
        assert await replicas[0].prewarm() == 0
        assert {held for *_, held in await decided(replicas[0])} >= {"Total"}


async def test_a_pod_that_may_not_start_backs_off(store: PostgresStore) -> None:
    await apply_task(store, warm={"min": 2})
    await store.prewarm()
    first, second = await orders(store)
    await store.note_pod(first.pod_id, "ImagePullFailed", "no such image")
    assert await store.prewarm() == 0
    assert (await decided(store))[0][4] == "Trouble"
    (facts,) = await store.task_facts()
    assert (facts.least, facts.held_back, facts.message) == (2, "Trouble", "ImagePullFailed: no such image")
    for order in (first, second):
        await lose(store, order.pod_id, TROUBLE)
    assert await store.prewarm() == 0, "both failed just now"
    (facts,) = await store.task_facts()
    assert facts.message == "ConfigError: no module of that name"
    await ago(store, "closing_at", 15.0, "state = 'closing'")
    assert await store.prewarm() == 0, "the second failure waits longer than the first"
    await ago(store, "closing_at", 10.0, "state = 'closing'")
    assert await store.prewarm() == 1, "a single try"
    (session,) = await made(store)
    assert await state(store, session) == "idle"
    assert await store.prewarm() == 1, "it can start: the rest follows"
    (facts,) = await store.task_facts()
    assert facts.held_back is None


async def test_one_that_ends_before_its_first_run_is_as_bad(store: PostgresStore) -> None:
    """Whatever ends pods as they come makes no loop of Jobs. One that is deleted while it waits is no trouble."""
    await apply_task(store, warm={"min": 1})
    await store.prewarm()
    (order,) = await orders(store)
    await lose(store, order.pod_id, Ending(Reason.EVICTED, "disk pressure", counted=False, infra=True))
    assert await store.prewarm() == 0
    await ago(store, "closing_at", 11.0, "state = 'closing'")
    assert await store.prewarm() == 1
    (session,) = await made(store)
    epoch = await store.take_epoch("test", "template")
    await store.retire_pod(epoch, session.pod_id, "ended")
    assert await store.prewarm() == 0
    assert (await store.task_facts())[0].message.startswith("Ended: ")
    await ago(store, "closing_at", 21.0, "state = 'closing'")
    assert await store.prewarm() == 1
    (session,) = await made(store)
    await store.retire_pod(await store.take_epoch("test", "template"), session.pod_id, "deleted")
    assert await store.prewarm() == 1


@pytest.mark.parametrize("why", ["paused", "deleted", "version", "off"])
async def test_pods_are_for_runs_that_may_come(store: PostgresStore, why: str) -> None:
    await apply_task(store, queue="slow", warm={"min": 1})
    await store.apply_queue(QueueIntake(NS, "slow", "uid-slow", 1, 5))
    assert await store.prewarm() == 1
    (order,) = await orders(store)
    if why == "paused":
        await store.apply_queue(QueueIntake(NS, "slow", "uid-slow", 2, 5, paused=True))
    elif why == "deleted":
        await store.remove_task(NS, "index")
    else:
        more = {"shape": {"entrypoint": "c:d"}} if why == "version" else {}
        warm = {"min": 1, "seconds": 0} if why == "off" else {"min": 1}
        await apply_task(store, queue="slow", generation=2, warm=warm, **more)
    assert await store.prewarm() == (1 if why == "version" else 0)
    await store.keep_warm()
    expected = {"paused": "creating", "deleted": "closing", "version": "closing", "off": "closing"}
    assert (await row(store, order.pod_id))["state"] == expected[why], "one on its way may come all the same"
    if why == "version":
        with pytest.raises(GoneError):
            await bound(store, order)


async def test_one_that_lost_its_attempt_is_like_one_made_ahead(store: PostgresStore) -> None:
    await apply_task(store)
    pod = await warm_pod(store)
    await trigger(store)
    await store.admit(10)
    (order,) = await orders(store)
    assert await store.launched((await store._db.fetch("select epoch from leadership"))[0][0], order.pod_id, "job")
    await pod.succeed()
    assert await following(store, pod.session), "the attempt of the one that is not there yet"
    await apply_task(store, warm={"min": 2})
    assert await store.prewarm() == 0, "it is on its way as any other"
    await store.note_pod(order.pod_id, "Unschedulable", "0/1 nodes")
    assert (await store.task_facts())[0].held_back is None
    assert await store.prewarm() == 0
    assert (await store.task_facts())[0].message == "Unschedulable: 0/1 nodes"
    assert await store.keep_warm() == 0, "its Task should have it, whatever is in its way"
    await apply_task(store, warm={"predict": 0})
    assert await store.prewarm() == 0
    assert await store.keep_warm() == 1, "nobody waits for it"
    assert (await row(store, order.pod_id))["retired"] == "trouble"


async def test_slots_and_arrivals_are_foretold(store: PostgresStore) -> None:
    await apply_task(store, warm={"predict": 1})
    assert await store.prewarm() == 0
    query = """
        insert into schedules (schedule_id, cluster, namespace, task, name, spec, next_at, due_at, cursor_at, managed)
        values (gen_random_uuid(), $1, $2, 'index', 'nightly', '{}', clock_timestamp() + interval '25 seconds',
                clock_timestamp() + interval '25 seconds', clock_timestamp(), true)"""
    await store._db.fetch(query, store._db.cluster, NS)
    assert await store.prewarm() == 1
    assert await decided(store) == [("index", 1, 1, "schedule", None)]
    await apply_task(store, "often", warm={"predict": 1})
    for _ in range(6):
        await trigger(store, task="often")
    await store.promote(100)
    await store.prewarm()
    assert ("often", 1, 1, "arrivals", None) in await decided(store)


async def test_waiting_pods_give_way_and_are_not_made_again_at_once(store: PostgresStore) -> None:
    await apply_task(store, warm={"min": 2})
    await store.prewarm()
    first, _ = await orders(store)
    session = await bound(store, first)
    assert not await following(store, session)
    epoch = await store.take_epoch("test", "template")
    assert await store.make_room(epoch, NS)
    assert await store.make_room(epoch, NS), "one on its way gives way too"
    assert not await store.make_room(epoch, NS)
    assert await store.prewarm() == 0
    assert (await decided(store))[0][4] == "Room"
    await ago(store, "closing_at", 61.0, "retired = 'room'")
    assert await store.prewarm() == 2


async def test_a_restart_retires_pods_without_a_new_version(store: PostgresStore) -> None:
    version = await apply_task(store, warm={"min": 2})
    busy = await warm_pod(store)
    idler = await idle_pod(store)
    await store.prewarm()
    assert await apply_task(store, warm={"min": 2}, restart="2026-01-01T00:00:00Z") == version
    assert await state(store, idler) == "closing"
    assert (await row(store, idler.pod_id))["retired"] == "restart"
    assert await busy.write("a") == [1], "one at work goes on"
    assert await busy.succeed() == "succeeded"
    assert await state(store, busy.session) == "closing"
    assert await store.prewarm() == 2
    sessions = await made(store)
    await apply_task(store, warm={"min": 2}, restart="2026-01-01T00:00:00Z")
    assert {await state(store, session) for session in sessions} == {"idle"}, "the same word again is none"
    await apply_task(store, warm={"min": 2})
    assert {await state(store, session) for session in sessions} == {"idle"}, "nor is its absence"


async def test_a_restart_while_a_pod_is_on_its_way(store: PostgresStore) -> None:
    await apply_task(store, warm={"min": 1})
    await store.prewarm()
    (order,) = await orders(store)
    session = await bound(store, order)
    await apply_task(store, warm={"min": 1}, restart="now")
    with pytest.raises(GoneError):
        await following(store, session)
    assert await store.prewarm() == 1


async def test_an_import_that_does_not_end_is_given_up(store: PostgresStore) -> None:
    await apply_task(store, warm={"min": 1})
    await store.prewarm()
    (order,) = await orders(store)
    session = await bound(store, order)
    await store.prewarm()
    assert await state(store, session) == "bound"
    await ago(store, "bound_at", 601.0)
    await store.prewarm()
    assert await state(store, session) == "closing"
    assert "import" in (await store.task_facts())[0].message


async def test_what_an_import_leaves_is_of_its_version(store: PostgresStore) -> None:
    await apply_task(store)
    pod = await warm_pod(store)
    assert await store.task_facts() == []
    await store.tell_left(pod.session, ["thread a", "descriptor 7"])
    await store.tell_left(pod.session, ["thread b"])
    (facts,) = await store.task_facts()
    assert (facts.version, facts.left) == (1, ["thread a", "descriptor 7"])
    await store.tell_left(PodSession(pod.session.pod_id, NS, "another"), ["x"])
    await apply_task(store, generation=2, shape={"entrypoint": "c:d"})
    assert await store.task_facts() == []


async def test_rows_of_pods_without_a_run_are_forgotten(store: PostgresStore) -> None:
    await apply_task(store, warm={"min": 1})
    await store.prewarm()
    (order,) = await orders(store)
    await lose(store, order.pod_id, TROUBLE)
    await store.close_pod(order.pod_id)
    await store.prewarm()
    assert (await row(store, order.pod_id))["state"] == "closed"
    await ago(store, "closed_at", 3601.0)
    await store.prewarm()
    assert not await store._db.fetch("select from pods where pod_id = $1", order.pod_id)


async def test_runs_are_launched_before_pods_without_one(store: PostgresStore) -> None:
    await apply_task(store, warm={"min": 3})
    await store.prewarm()
    await trigger(store)
    await store.admit(10)
    epoch = await store.take_epoch("test", "template")
    found = await store.take_wanted(epoch, 2)
    assert [order.ahead for order in found] == [False, True]


async def test_an_older_sidecars_pod_is_launched_as_before(store: PostgresStore) -> None:
    """What was made ahead changes nothing for pods that have their attempt."""
    await apply_task(store, warm={"min": 1})
    await trigger(store)
    (session,) = await launch_warm(store)
    start = await started(store, session)
    assert await Pod(store, session, start).succeed() == "succeeded"
    (answer,) = await store.next_work([(session, NextRequest(None))])
    assert told(answer) is False
