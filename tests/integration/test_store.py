"""The engine on a real Postgres: the life of runs, their budgets, fences and limits."""

import asyncio
from dataclasses import replace

import pytest

from milepost.wire.pod import HeartbeatRequest, RecordsRequest, RecordWrite
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import (
    ConflictError,
    DeposedError,
    ForbiddenError,
    GoneError,
    NotFoundError,
    UnavailableError,
)
from milepost_operator.domain.runs import Ending, QueueIntake, Retry
from milepost_operator.domain.states import Reason
from milepost_operator.settings import Settings
from tests.integration.engine import NS, Pod, apply_task, eventually, launch, next_pod, started, trigger


async def state_of(store: PostgresStore, name: str) -> str:
    return (await store.get_run(NS, name)).state


async def test_a_run_goes_from_trigger_to_result(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store, input='{"b": 1, "a": [1.50]}', tags=["x"])
    pod = await next_pod(store)
    assert (pod.start.attempt, pod.start.cause, pod.start.input) == (1, "first", '{"b": 1, "a": [1.50]}')
    assert await pod.write("one", '{"z":1,"a":2}') == [1]
    assert await pod.succeed('{"done": 1}') == "succeeded"
    view = await store.get_run(NS, run.name)
    assert (view.state, view.result, view.last_key, view.attempts_counted) == ("succeeded", '{"done": 1}', "one", 0)
    assert [a.state for a in await store.get_attempts(view.run_id)] == ["ended"]


async def test_the_next_attempt_reads_what_was_acknowledged(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    first = await next_pod(store)
    for i in range(3):
        await first.write(f"step{i}", str(i))
    await store.pod_ended(first.session.pod_id, None, Ending(Reason.POD_LOST, "deleted", counted=False, infra=True))
    second = await next_pod(store)
    assert (second.start.attempt, second.start.cause, second.start.records) == (2, "infra", 3)
    assert await second.records() == [("step0", "0"), ("step1", "1"), ("step2", "2")]
    await second.succeed()
    view = await store.get_run(NS, run.name)
    assert (view.attempts_counted, view.resumed_after) == (0, 3)


async def test_an_older_attempt_can_write_nothing(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store)
    old = await next_pod(store)
    await store.pod_ended(old.session.pod_id, None, Ending(Reason.LEASE_EXPIRED, "late", counted=False, infra=True))
    new = await next_pod(store)
    for refused in (await old.write("late"), *await store.beat([(old.session, HeartbeatRequest(old.fence))])):
        assert isinstance(refused, ConflictError)
        assert refused.code == "fenced"
    with pytest.raises(ConflictError):
        await old.succeed()
    with pytest.raises(GoneError):
        await started(store, old.session)
    assert await new.succeed() == "succeeded"


async def test_another_pods_fence_is_refused(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store)
    await trigger(store)
    a, b = [Pod(store, s, await started(store, s)) for s in await launch(store)]
    forged = Pod(store, a.session, b.start)
    assert isinstance(await forged.write("x"), ForbiddenError)
    with pytest.raises(ForbiddenError):
        await forged.succeed()
    with pytest.raises(ForbiddenError):
        await store.open_session(b.session.pod_id, NS, "other-uid", f"mp-{b.session.pod_id}-abcde")
    with pytest.raises(ForbiddenError):
        await store.open_session(b.session.pod_id, "other", b.session.pod_uid, f"mp-{b.session.pod_id}-abcde")
    with pytest.raises(NotFoundError):
        await store.open_session("nope", NS, "u", "mp-nope-abcde")


async def test_a_retransmission_is_harmless_and_the_first_step_wins(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store)
    pod = await next_pod(store)
    assert await pod.write("a", "1", write_id="w") == await pod.write("a", "1", write_id="w")
    again = await pod.write("a", "2")
    assert isinstance(again, ConflictError)
    assert again.code == "step-exists"
    await pod.write("c", "1", kind="checkpoint")
    await pod.write("c", "2", kind="checkpoint")
    newest = await store.newest(pod.fence, "checkpoint", "c")
    assert newest
    assert newest.value == "2"
    assert (await pod.records())[0] == ("a", "1")


async def test_a_failed_step_is_a_record_like_others(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store)
    pod = await next_pod(store)
    write = RecordWrite("w", "step", "a", '{"type": "builtins:ValueError"}', failed=True)
    assert await store.append([(pod.session, RecordsRequest(pod.fence, [write]))]) == [[1]]
    again = await pod.write("a")
    assert isinstance(again, ConflictError)
    assert again.code == "step-exists"
    await pod.write("b")
    assert [(r.key, r.failed) async for r in store.records(pod.fence, 0)] == [("a", True), ("b", False)]
    newest = await store.newest(pod.fence, "step", "a")
    assert newest
    assert newest.failed


async def test_many_sidecars_share_one_commit_each_with_its_own_answer(store: PostgresStore) -> None:
    await apply_task(store)
    for _ in range(3):
        await trigger(store)
    pods = [Pod(store, s, await started(store, s)) for s in await launch(store)]
    stale = replace(pods[0].fence, token=1 << 40)
    requests = [
        (
            p.session,
            RecordsRequest(p.fence, [RecordWrite(f"w{i}{p.start.attempt}", "step", f"k{i}", "1") for i in (0, 1)]),
        )
        for p in pods
    ]
    requests.append((pods[0].session, RecordsRequest(stale, [RecordWrite("zz", "step", "k9", "1")])))
    *good, bad = await store.append(requests)
    assert good == [[1, 2]] * 3
    assert isinstance(bad, ConflictError)


async def test_failures_spend_attempts_and_the_last_one_is_a_dead_letter(store: PostgresStore) -> None:
    await apply_task(store, retry=Retry(max_attempts=2, min_seconds=0, max_seconds=0))
    run = await trigger(store)
    assert await (await next_pod(store)).fail() == "backoff"
    assert await (await next_pod(store)).fail("oom") == "failed"
    view = await store.get_run(NS, run.name)
    assert (view.dead_lettered, view.reason, view.attempts_counted) == (True, "OOMKilled", 2)


async def test_a_fatal_failure_is_final(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    assert await (await next_pod(store)).fail("fatal") == "failed"
    assert not (await store.get_run(NS, run.name)).dead_lettered


async def test_infrastructure_losses_have_their_own_budget_and_progress_resets_it(
    store: PostgresStore, settings: Settings
) -> None:
    await apply_task(store)
    run = await trigger(store)
    loss = Ending(Reason.EVICTED, "evicted", counted=False, infra=True)
    for i in range(settings.infra_budget):
        pod = await next_pod(store)
        if i == 0:
            await pod.write("progress")
        await store.pod_ended(pod.session.pod_id, None, loss)
    assert await state_of(store, run.name) == "backoff"
    await store.pod_ended((await next_pod(store)).session.pod_id, None, loss)
    view = await store.get_run(NS, run.name)
    assert (view.state, view.reason, view.dead_lettered, view.attempts_counted) == (
        "failed",
        "InfrastructureBudgetSpent",
        True,
        0,
    )


async def test_settling_twice_is_one_settle(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store)
    pod = await next_pod(store)
    assert await pod.succeed() == await pod.succeed() == "succeeded"
    late = await pod.write("late")
    assert isinstance(late, ConflictError)
    assert late.code == "settled"
    await store.pod_ended(pod.session.pod_id, None, Ending(Reason.USER_FAILURE, "exit 1"))
    assert [row["state"] for row in await store._db.fetch("select state from runs")] == ["succeeded"]


async def test_a_restarted_sidecar_gets_its_attempt_again(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store)
    pod = await next_pod(store)
    await pod.write("one")
    pod_id, pod_uid = pod.session.pod_id, pod.session.pod_uid
    again = await started(store, await store.open_session(pod_id, NS, pod_uid, f"mp-{pod_id}-abcde"))
    assert (again.attempt, again.token, again.last_seq) == (1, pod.start.token, 1)


async def test_no_admission_above_the_limit_from_many_replicas(store: PostgresStore, settings: Settings) -> None:
    await store.apply_queue(QueueIntake(NS, "narrow", "u", 1, 4))
    await apply_task(store, queue="narrow")
    for _ in range(12):
        await trigger(store)
    async with PostgresStore.open(settings) as other:
        counts = await asyncio.gather(*[s.admit(3) for s in (store, other) for _ in range(8)])
        counts.append(await store.admit(3))  # a queue that another replica held was left to it
    assert sum(counts) == 4
    seen = await store.get_queue(NS, "narrow")
    assert (seen.depth, seen.running, seen.limit) == (8, 4, 4)


async def test_runs_wait_for_their_task_and_queue_with_that_reason(store: PostgresStore) -> None:
    run = await trigger(store)
    view = await store.get_run(NS, run.name)
    assert (view.state, view.reason) == ("held", "TaskNotFound")
    await apply_task(store, queue="later")
    await store.promote(10)
    assert (await store.get_run(NS, run.name)).reason == "QueueNotFound"
    assert await store.promote(10) == 0
    await store.apply_queue(QueueIntake(NS, "later", "u", 1, 1))
    await store.promote(10)
    assert await state_of(store, run.name) == "queued"
    await store.remove_task(NS, "index")
    assert (await store.get_run(NS, run.name)).reason == "TaskNotFound"
    await apply_task(store, queue="later")
    await (await next_pod(store)).succeed()


async def test_a_run_stays_on_the_version_it_began_with(store: PostgresStore) -> None:
    assert await apply_task(store) == 1
    await trigger(store)
    pod = await next_pod(store)
    assert await apply_task(store, generation=2, shape={"entrypoint": "a:c"}) == 2
    await pod.fail()
    assert (await next_pod(store)).start.entrypoint == "a:b"
    assert await apply_task(store, generation=3) == 1


async def test_idempotency_keys_and_intents_make_one_run(store: PostgresStore) -> None:
    await apply_task(store)
    first = await trigger(store, idempotency_key="k", input='{"a":1,"b":2}')
    again = await trigger(store, idempotency_key="k", input='{"b": 2, "a": 1}')
    assert (again.run_id, again.duplicate) == (first.run_id, True)
    with pytest.raises(ConflictError, match="another input"):
        await trigger(store, idempotency_key="k", input="3")
    made = [await trigger(store, intent_uid="cr1", name="nightly", origin="kubectl") for _ in range(2)]
    assert made[0].run_id == made[1].run_id


async def test_one_cr_taken_in_by_two_leaders_at_once_is_one_run(store: PostgresStore) -> None:
    await apply_task(store)
    for cr in range(20):
        both = [trigger(store, intent_uid=f"cr{cr}", name=f"run{cr}", origin="kubectl") for _ in range(4)]
        made = await asyncio.gather(*both)
        assert len({one.run_id for one in made}) == 1
        assert [one.duplicate for one in made].count(False) == 1


async def test_manifests_applied_again_after_a_restore_run_nothing_twice(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store, intent_uid="cr1", name="nightly", origin="kubectl")
    await (await next_pod(store)).succeed()
    await store.forget_cr(NS, "nightly", "cr1")
    again = await trigger(store, intent_uid="cr2", name="nightly", origin="kubectl")
    assert (again.run_id, again.state, again.duplicate) == (run.run_id, "succeeded", True)
    with pytest.raises(ConflictError, match="another task or input"):
        await trigger(store, intent_uid="cr3", name="nightly", origin="kubectl", input="1")
    assert not await launch(store)


async def test_cancel_before_at_and_after_the_start(store: PostgresStore) -> None:
    await apply_task(store)
    waiting = await trigger(store, name="waiting")
    await store.cancel_run(waiting.run_id, "me")
    admitted = await trigger(store, name="admitted")
    await store.admit(10)
    await store.cancel_run(admitted.run_id, "me")
    assert [await state_of(store, n) for n in ("waiting", "admitted")] == ["cancelled", "cancelled"]
    running = await trigger(store, name="running")
    pod = await next_pod(store)
    await store.cancel_run(running.run_id, "me")
    (answer,) = await store.beat([(pod.session, HeartbeatRequest(pod.fence))])
    assert getattr(answer, "directive", None) == "cancel"
    assert await pod.succeed() == "cancelled"


async def test_a_cancel_that_nobody_answers_is_forced(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    pod = await next_pod(store)
    await store.cancel_run(run.run_id, "me")
    await store.reap(10)
    assert await state_of(store, run.name) == "cancelled"
    assert isinstance(await pod.write("late"), ConflictError)


async def test_a_lease_lapses_only_after_beats_were_possible_for_a_whole_lease(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    await next_pod(store)
    await store._db.fetch("update service_pulse set seen_at = clock_timestamp() - interval '1 minute'")
    await asyncio.sleep(0.5)  # the lease of the tests is 0.4 s
    await store.pulse()  # we were away: the lease begins anew
    assert await store.reap(10) == 0
    assert await state_of(store, run.name) == "running"

    async def reaped() -> int:
        await store.pulse()
        return await store.reap(10)

    await eventually(reaped)
    view = await store.get_run(NS, run.name)
    assert (view.state, view.reason, view.attempts_counted) == ("queued", "LeaseExpired", 0)


async def test_only_the_newest_epoch_launches(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store)
    await store.admit(10)
    old = await store.take_epoch("a")
    (order,) = await store.take_wanted(old, 10)
    new = await store.take_epoch("b")
    with pytest.raises(DeposedError):
        await store.take_wanted(old, 10)
    with pytest.raises(DeposedError):
        await store.launched(old - 1, order.pod_id, "job")
    assert [o.pod_id for o in await store.take_wanted(new, 10)] == [order.pod_id]
    assert await store.launched(new, order.pod_id, "job")


async def test_projection_follows_and_forgets(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    assert await store.due(10, 15) == []  # a waiting run of the API is no object
    pod = await next_pod(store)
    (item,) = await store.due(10, 15)
    assert [e.reason for e in item.events] == ["RunAdmitted", "AttemptStarted"]
    await store.projected(run.run_id, item.view.rev, "uid1", item.events[-1].seq)
    assert await store.due(10, 15) == []
    await pod.write("one")
    assert await store.due(10, 15) == []
    assert len(await store.due(10, 0)) == 1
    await store.forget_cr(NS, run.name, "uid1")
    (item,) = await store.due(10, 15)
    assert item.cr_uid is None
    await store.projected(run.run_id, item.view.rev, "uid2", item.events[-1].seq if item.events else 0)
    await pod.succeed()
    (item,) = await store.due(10, 15)
    assert [e.reason for e in item.events] == ["RunSucceeded"]


async def test_deleting_the_cr_of_a_live_kubectl_run_cancels_it(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store, name="r", intent_uid="cr", origin="kubectl")
    await store.forget_cr(NS, "r", "cr")
    assert await state_of(store, "r") == "cancelled"
    assert await store.due(10, 0) == []


async def test_wake_ups_arrive_and_a_broken_listener_says_so(store: PostgresStore) -> None:
    heard = store.wakeups({"admit"})
    first: asyncio.Future[str] = asyncio.ensure_future(anext(heard))

    async def woken() -> bool:
        store._db.wake("launch", "admit")
        await asyncio.sleep(0.01)
        return first.done()

    await eventually(woken)
    assert first.result() == "admit"
    await heard.aclose()  # type: ignore[attr-defined]


async def test_a_cut_connection_is_unavailable_and_nothing_was_acknowledged(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)

    async def cut(connection: object) -> None:
        await connection.execute("update runs set state = 'held', held_at = now(), reason = 'x'")  # type: ignore[attr-defined]
        await connection.execute("select pg_terminate_backend(pg_backend_pid())")  # type: ignore[attr-defined]

    with pytest.raises(UnavailableError):
        await store._db.transaction(cut)
    assert await state_of(store, run.name) == "queued"


async def test_a_run_that_is_held_for_too_long_expires(store: PostgresStore) -> None:
    run = await trigger(store)
    assert await store.reap(10) == 0
    await store._db.fetch("update runs set held_at = held_at - interval '25 hours'")
    assert await store.reap(10) == 1
    view = await store.get_run(NS, run.name)
    assert (view.state, view.reason) == ("expired", "Expired")
    assert "no Task index" in str(view.message)
