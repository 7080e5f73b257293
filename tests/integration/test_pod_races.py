"""Leaders, sidecars and restarts meet at the row of a pod."""

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import DeposedError, GoneError
from milepost_operator.domain.runs import Created, Ending, PodOrder
from milepost_operator.domain.states import Reason
from tests.integration.engine import (
    NS,
    Pod,
    apply_task,
    started,
    trigger,
)
from tests.integration.locks import blocked
from tests.integration.test_warm import following, launch_warm, warm_pod

LOST = Ending(Reason.POD_LOST, "gone", counted=False, infra=True)


async def view(store: PostgresStore, name: str) -> Any:
    return await store.get_run(NS, name)


async def ordered(store: PostgresStore) -> tuple[Created, int, PodOrder]:
    """A run that was admitted, and the order of its pod with the epoch that took it."""
    await apply_task(store)
    run = await trigger(store)
    await store.admit(10)
    epoch = await store.take_epoch("a")
    (order,) = await store.take_wanted(epoch, 10)
    return run, epoch, order


async def test_a_deposed_leader_does_not_delete_the_job_its_successor_adopts(
    store: PostgresStore, other: PostgresStore
) -> None:
    _run, first, order = await ordered(store)
    second = await other.take_epoch("b")
    (same,) = await other.take_wanted(second, 10)
    assert same.pod_id == order.pod_id
    with pytest.raises(DeposedError):  # False would have it delete the Job
        await store.launched(first, order.pod_id, "job")
    assert await other.launched(second, order.pod_id, "job")


async def test_what_a_deposed_leader_saw_ends_no_attempt_of_its_successor(
    store: PostgresStore, other: PostgresStore
) -> None:
    run, first, order = await ordered(store)
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
    run, epoch, order = await ordered(store)
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
    run, epoch, order = await ordered(store)
    assert await store.launched(epoch, order.pod_id, "job")
    hopeless = Ending(Reason.CONFIG, "secret not found", counted=False, final=True, started=False)
    assert await store.pod_ended(epoch, order.pod_id, None, hopeless, unheard=True) is True
    assert (await view(store, run.name)).state == "failed"


async def test_a_job_of_a_row_that_closed_meanwhile_is_to_be_deleted(store: PostgresStore) -> None:
    run, epoch, order = await ordered(store)
    await store.cancel_run(run.run_id, "me")
    await store.take_epoch("b")
    assert not await store.launched(epoch, order.pod_id, "job")


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
