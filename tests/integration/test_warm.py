"""A pod that stays after its attempt and takes the next one: what the rows say at each step."""

import pytest

from milepost.wire.pod import NextRequest
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import GoneError, MilepostError
from milepost_operator.domain.runs import PodSession
from tests.integration.engine import NS, Pod, apply_task, started, told, trigger


async def launch_warm(store: PostgresStore) -> list[PodSession]:
    """What is wanted becomes pods whose sidecars can ask for the next attempt."""
    await store.promote(100)
    await store.admit(100)
    epoch = await store.take_epoch("test", "template")
    sessions = []
    for order in await store.take_wanted(epoch, 100):
        assert await store.launched(epoch, order.pod_id, "job")
        name = f"mp-{order.pod_id}-abcde"
        sessions.append(
            await store.open_session(order.pod_id, order.namespace, f"pod-{order.pod_id}", name, reusable=True)
        )
    return sessions


async def warm_pod(store: PostgresStore, **changes: object) -> Pod:
    """A pod at work that can stay."""
    await trigger(store, **changes)
    (session,) = await launch_warm(store)
    return Pod(store, session, await started(store, session))


async def following(store: PostgresStore, session: PodSession, retire: str | None = None) -> bool:
    """Whether there is work for it."""
    (answer,) = await store.next_work([(session, NextRequest(retire))])
    return told(answer)


async def idle_pod(store: PostgresStore, **changes: object) -> PodSession:
    pod = await warm_pod(store, **changes)
    await pod.succeed()
    assert not await following(store, pod.session)
    return pod.session


async def row(store: PostgresStore, pod_id: str) -> dict[str, object]:
    (found,) = await store._db.fetch("select * from pods where pod_id = $1", pod_id)
    return dict(found)


async def state(store: PostgresStore, session: PodSession) -> object:
    return (await row(store, session.pod_id))["state"]


async def attempts(store: PostgresStore, run_id: object) -> list[tuple[object, ...]]:
    rows = await store._db.fetch(
        "select pod_id, state, cold_reason, counted, infra from attempts where run_id = $1 order by attempt", run_id
    )
    return [tuple(one) for one in rows]


async def test_the_next_run_starts_in_the_pod_of_the_last_one(store: PostgresStore) -> None:
    await apply_task(store)
    pod = await warm_pod(store)
    first = pod.start
    await pod.succeed()
    rested = await row(store, pod.session.pod_id)
    assert (rested["state"], rested["run_id"], rested["attempt"], rested["runs"]) == ("resting", None, None, 1)
    with pytest.raises(GoneError):
        await started(store, pod.session)
    assert not await following(store, pod.session)
    assert await state(store, pod.session) == "idle"
    run = await trigger(store, input='{"n": 2}')
    await store.admit(10)
    handed = await store.hand_over()
    assert (list(handed.pods), handed.missed) == ([pod.session.pod_id], False)
    assert await state(store, pod.session) == "offered"
    assert await following(store, pod.session)
    start = await started(store, pod.session)
    assert (start.run_id, start.attempt, start.input) == (str(run.run_id), 1, '{"n": 2}')
    assert start.token > first.token
    assert await state(store, pod.session) == "bound"
    assert await following(store, pod.session), "a sidecar that was restarted asks again"
    warm = Pod(store, pod.session, start)
    assert await warm.write("a") == [1]
    assert isinstance(await pod.write("late"), MilepostError)
    assert await warm.succeed() == "succeeded"
    assert await attempts(store, run.run_id) == [(pod.session.pod_id, "ended", None, False, False)]
    assert await attempts(store, first.run_id) == [(pod.session.pod_id, "ended", "first", False, False)]
    assert (await row(store, pod.session.pod_id))["runs"] == 2
    assert (await store._db.fetch("select count(*) from pods"))[0][0] == 1
    assert (await store.get_run(NS, run.name)).pod_id == pod.session.pod_id
