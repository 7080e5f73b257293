"""Our own outages burn no attempt, and what never starts is freed all the same."""

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import Ending
from milepost_operator.domain.states import Reason
from tests.integration.engine import NS, Pod, apply_task, launch, next_pod, served_for, trigger


async def test_leases_outlive_an_outage_whoever_turns_first_after_it(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    pod = await next_pod(store)
    await store.pulse()
    await served_for(store, "2 h", until="1 h")
    await store._db.fetch("update run_heads set lease_until = now() - interval '50 min'")
    assert await store.reap(100) == 0  # before the first pulse
    await store.pulse()
    assert await store.reap(100) == 0
    assert (await store.get_run(NS, run.name)).state == "running"
    assert await pod.succeed() == "succeeded"


async def test_a_clock_set_back_does_not_keep_leases_for_ever(store: PostgresStore) -> None:
    await served_for(store, "-1 h", until="-1 h")
    await store.pulse()
    (row,) = await store._db.fetch("select up_since <= clock_timestamp() as ok from service_pulse")
    assert row["ok"]


async def test_a_pod_whose_sidecar_is_bound_but_never_starts_frees_its_slot(store: PostgresStore) -> None:
    await apply_task(store)
    run = await trigger(store)
    await launch(store)
    await store._db.fetch("update pods set bound_at = now() - interval '10 min'")
    await served_for(store, "1 min")
    assert await store.reap(10) == 0  # our own outage ended a minute ago
    await served_for(store, "10 min")
    assert await store.reap(10) == 1
    assert ((await store.get_run(NS, run.name)).state, (await store.get_run(NS, run.name)).reason) == (
        "queued",
        "SidecarLost",
    )


async def test_a_pod_is_unheard_of_only_while_it_could_be_heard(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store)
    await store.admit(10)
    epoch = await store.take_epoch("a")
    (order,) = await store.take_wanted(epoch, 10)
    await store.launched(epoch, order.pod_id, "job")
    await store._db.fetch("update pods set launched_at = now() - interval '1 h'")
    heard = []
    for since, until in (("2 h", "0"), ("2 h", "1 min"), ("5 min", "0")):
        await served_for(store, since, until)
        (row,) = await store.open_pods()
        heard.append(round(row.unheard_seconds, -1))
    assert heard == [3600, 0, 300]
    await store.open_session(order.pod_id, NS, "uid", f"mp-{order.pod_id}-abcde")
    (row,) = await store.open_pods()
    assert row.unheard_seconds == 0


LOST = Ending(Reason.NODE_LOST, "the node is gone", counted=False, infra=True, evidence={"node": "node1"})


async def lapsed(store: PostgresStore) -> Pod:
    """A run whose attempt's lease lapsed."""
    await apply_task(store)
    await trigger(store)
    pod = await next_pod(store)
    await store._db.fetch("update run_heads set lease_until = now() - interval '1 min'")
    await served_for(store, "1 h")
    assert await store.reap(10) == 1
    return pod


async def test_a_lapsed_lease_becomes_the_loss_of_a_node_once_that_is_known(store: PostgresStore) -> None:
    pod = await lapsed(store)
    assert [row.ended_as for row in await store.open_pods()] == ["LeaseExpired"]
    assert [await store.node_lost(pod.session.pod_id, LOST) for _ in range(2)] == [True, False]
    assert [row.ended_as for row in await store.open_pods()] == ["NodeLost"]
    (attempt,) = await store._db.fetch("select reason, message, counted, infra, evidence::text from attempts")
    assert tuple(attempt) == ("NodeLost", "the node is gone", False, True, '{"node":"node1"}')
    told = await store._db.fetch("select reason, message, warning from run_events where message like '%NodeLost%'")
    assert [tuple(row) for row in told] == [
        ("CauseKnown", "attempt 1: NodeLost: the node is gone (told before as LeaseExpired)", False)
    ]
    (run,) = await store._db.fetch("select state, attempts_counted from runs")
    assert tuple(run) == ("queued", 0)


async def test_no_object_is_made_for_the_loss_of_a_node_under_a_run_that_ended(store: PostgresStore) -> None:
    pod = await lapsed(store)
    assert await (await next_pod(store)).succeed() == "succeeded"
    await store._db.fetch("update runs set projected_rev = rev, cr_uid = null")
    assert await store.node_lost(pod.session.pod_id, LOST)
    (run,) = await store._db.fetch("select rev = projected_rev as shown from runs")
    assert run["shown"]


async def test_an_end_whose_cause_is_known_stays_as_it_is_when_its_node_is_lost(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store)
    pod = await next_pod(store)
    await pod.fail()
    assert not await store.node_lost(pod.session.pod_id, LOST)
    (attempt,) = await store._db.fetch("select reason from attempts where attempt = 1")
    assert attempt["reason"] == "TaskFailed"
