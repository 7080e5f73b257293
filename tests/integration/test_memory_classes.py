"""An attempt that ran out of memory is followed by one with more: in rows, in pods, and in what people read."""

import pytest

from milepost.wire.pod import Evidence, Failure, SettleRequest
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import Ending, PodOrder, Retry, TaskIntake, Timeouts
from milepost_operator.domain.states import Reason
from tests.integration.engine import NS, Pod, apply_task, lose, settled, started, trigger
from tests.integration.test_warm import following, launch_warm, row, warm_pod

GIB = 1024**3
RAISING = Retry(max_attempts=4, min_seconds=0.0, max_seconds=0.0, oom_factor=2.0, oom_max_bytes=3 * GIB // 2)
SHORT = Ending(Reason.OOM, "out of memory: the container was killed at its limit of 512Mi")


async def orders(store: PostgresStore) -> list[PodOrder]:
    await store.promote(100)
    await store.admit(100)
    return list(await store.take_wanted(await store.take_epoch("test", "template"), 100))


async def test_each_oom_raises_the_next_pod_up_to_the_cap(store: PostgresStore) -> None:
    """512Mi (the installation's default), 1Gi, 1536Mi (the cap), and again; each counts."""
    await apply_task(store, retry=RAISING)
    run = await trigger(store)
    seen = []
    for _ in range(3):
        (order,) = await orders(store)
        seen.append(order.memory_class)
        await lose(store, order.pod_id, SHORT)
    assert seen == [0, GIB, 3 * GIB // 2]
    view = await store.get_run(NS, run.name)
    assert (view.state, view.attempts_counted) == ("backoff", 3)
    assert view.message
    assert view.message.endswith("attempt 4 has 1536Mi again, the most it may have")
    (order,) = await orders(store)
    assert order.memory_class == 3 * GIB // 2
    await lose(store, order.pod_id, SHORT)
    assert (await store.get_run(NS, run.name)).dead_lettered


async def test_people_are_told(store: PostgresStore) -> None:
    later = Retry(max_attempts=4, min_seconds=600.0, max_seconds=600.0, oom_factor=2.0, oom_max_bytes=2 * GIB)
    await apply_task(store, retry=later, shape={"entrypoint": "a:b", "resources": {"limits": {"memory": "256Mi"}}})
    run = await trigger(store)
    (order,) = await orders(store)
    await lose(store, order.pod_id, SHORT)
    sentence = "attempt 2 has 512Mi after an OOM at 256Mi"
    assert sentence in str((await store.get_run(NS, run.name)).message)
    why = await store.why(run.run_id)
    assert why
    assert sentence in why.sentence
    events = await store._db.fetch("select message from run_events where run_id = $1 order by seq desc", run.run_id)
    assert sentence in events[0]["message"]
    assert "resources.limits.memory" in events[0]["message"], "what to do about it"


async def test_without_a_policy_it_is_tried_again_as_it_was(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store)
    (order,) = await orders(store)
    await lose(store, order.pod_id, SHORT)
    (again,) = await orders(store)
    assert (again.memory_class, again.shape) == (0, order.shape)


async def test_the_class_outlives_other_ends(store: PostgresStore) -> None:
    await apply_task(store, retry=RAISING)
    await trigger(store)
    (order,) = await orders(store)
    await lose(store, order.pod_id, SHORT)
    (order,) = await orders(store)
    await lose(store, order.pod_id, Ending(Reason.NODE_LOST, "gone", counted=False, infra=True))
    (order,) = await orders(store)
    assert order.memory_class == GIB


async def test_a_pod_takes_runs_of_its_own_class_alone(store: PostgresStore) -> None:
    """An idle pod of the version is not for a run that needs more, nor a larger one for a run that does not."""
    await apply_task(store, retry=RAISING)
    await trigger(store)
    await trigger(store)
    hog, other = [Pod(store, session, await started(store, session)) for session in await launch_warm(store)]
    small = other.session
    await other.succeed()
    assert not await following(store, small)
    request = SettleRequest(hog.fence, "failed", None, Failure("oom", "oom", "no"), OOM)
    assert await settled(store, hog.session, request) == "backoff"
    await store.promote(10)
    await store.admit(10)
    assert not (await store.hand_over()).pods, "it has too little memory"
    (session,) = await launch_warm(store)
    large = Pod(store, session, await started(store, session))
    assert large.start.run_id == hog.start.run_id
    assert (await row(store, session.pod_id))["memory_class"] == GIB
    assert await cold_reasons(store, hog.start.run_id) == ["first", "memory"]
    await large.succeed()
    assert not await following(store, session)
    await trigger(store)
    await store.admit(10)
    assert (await store.hand_over()).pods == [small.pod_id], "though the larger one was used last"


async def cold_reasons(store: PostgresStore, run_id: str) -> list[object]:
    rows = await store._db.fetch("select cold_reason from attempts where run_id::text = $1 order by attempt", run_id)
    return [one["cold_reason"] for one in rows]


OOM = Evidence(oom_kills=1, signal=9)


@pytest.mark.parametrize("kind", ["oom", "user"])
async def test_the_runner_tells_what_was_used(store: PostgresStore, kind: str) -> None:
    """Of the main process and of one that it had started."""
    await apply_task(store, retry=RAISING)
    pod = await warm_pod(store)
    used = Evidence(oom_kills=1, peak_bytes=12, throttled_periods=3, throttled_ms=40, resident_bytes=9)
    request = SettleRequest(pod.fence, "failed", None, Failure(kind, "E", "no"), used)  # type: ignore[arg-type]
    await settled(store, pod.session, request)
    run = await store._db.fetchrow("select run_id, memory_class from runs")
    assert run
    (attempt,) = await store.get_attempts(run["run_id"])
    assert attempt.reason == ("OOMKilled" if kind == "oom" else "ChildOOMKilled")
    assert run["memory_class"] == GIB
    kept = {name: attempt.evidence[name] for name in ("peak_bytes", "throttled_periods", "throttled_ms")}
    assert kept == {"peak_bytes": 12, "throttled_periods": 3, "throttled_ms": 40}


async def test_rows_of_plain_retries_are_as_the_release_before_reads_them(store: PostgresStore) -> None:
    await store.apply_task(TaskIntake(NS, "t", "u", 1, {"entrypoint": "a:b"}, "default", Retry(), Timeouts()))
    (found,) = await store._db.fetch("select retry from tasks where name = 't'")
    assert "oom" not in found["retry"]
