"""What Tasks say of the network, from the rows: for as long as there are pods of theirs."""

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import Ending
from milepost_operator.domain.states import Reason
from milepost_operator.ports.network import TaskNetwork
from tests.integration.engine import NS, apply_task, lose, trigger

LISTED = {"egress": "restricted", "allow": [{"cidr": "203.0.113.0/24"}]}


async def known(store: PostgresStore, namespace: str | None = None) -> dict[str, object]:
    found = await store.task_networks(namespace)
    assert all(isinstance(one, TaskNetwork) and one.namespace == NS for one in found)
    return {one.task: one.network for one in found}


async def test_the_newest_word_counts_and_makes_no_version(store: PostgresStore) -> None:
    await apply_task(store, "plain")
    version = await apply_task(store, network={"egress": "none"})
    assert await known(store) == {"plain": None, "index": {"egress": "none"}}
    assert await apply_task(store, generation=2, network=LISTED) == version
    assert await known(store, NS) == {"plain": None, "index": LISTED}
    assert await known(store, "elsewhere") == {}
    await apply_task(store, generation=3)
    assert await known(store) == {"plain": None, "index": None}


async def test_a_task_that_is_gone_is_known_until_its_last_pod_is(store: PostgresStore) -> None:
    await apply_task(store, network=LISTED)
    await trigger(store)
    await store.promote(10)
    await store.admit(10)
    await store.remove_task(NS, "index")
    (order,) = await store.take_wanted(await store.take_epoch("test"), 10)
    assert order.network == LISTED
    assert await known(store) == {"index": LISTED}
    await lose(store, order.pod_id, Ending(Reason.POD_LOST, "gone", counted=False, infra=True))
    await store.close_pod(order.pod_id)
    assert await known(store) == {}


async def test_a_pod_is_ordered_with_what_its_task_says_now(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store)
    await store.promote(10)
    await store.admit(10)
    await apply_task(store, generation=2, network={"egress": "none"})
    (order,) = await store.take_wanted(await store.take_epoch("test"), 10)
    assert order.network == {"egress": "none"}
