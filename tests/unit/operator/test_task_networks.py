"""The policies of namespaces are kept as their Tasks say: made, mended, taken away."""

import pytest

from milepost_operator.domain.errors import ForbiddenError, InvalidInputError, UnavailableError
from milepost_operator.manifests.network import NetworkSettings
from milepost_operator.ports.network import TaskNetwork
from milepost_operator.reconcile.network import TaskNetworks
from tests.fakes.kube import FakeCluster
from tests.unit.operator.store import FakeStore

SETTINGS = NetworkSettings("system", {"component": "api"}, 8443, closed=["169.254.0.0/16"], private=["10.0.0.0/8"])
SHUT = {"egress": "none"}
LISTED = {"egress": "restricted", "allow": [{"cidr": "203.0.113.0/24"}]}


class Bench:
    def __init__(self, settings: NetworkSettings | None = SETTINGS) -> None:
        self.store, self.cluster, self.written = FakeStore(), FakeCluster(), []
        self.networks = TaskNetworks(self.store, self.cluster, settings, (), on_written=self.written.append)

    def tasks(self, **networks: object) -> None:
        self.store.networks = [TaskNetwork("team", name, given) for name, given in networks.items()]

    async def turn(self) -> list[str]:
        """What one turn wrote."""
        self.written.clear()
        await self.networks.turn()
        return list(self.written)

    def names(self) -> list[str]:
        return sorted(policy["metadata"]["name"] for policy in self.cluster.of("policies"))

    def policy(self, name: str) -> dict:
        return self.cluster.objects["policies", "team", name]

    def left_out(self) -> list[str]:
        requirements = self.policy("milepost-tasks-open")["spec"]["podSelector"]["matchExpressions"]
        return next((one["values"] for one in requirements if one["operator"] == "NotIn"), [])

    async def of_task(self, name: str, given: object, *, told: bool = False) -> list[tuple[bool, str, str]]:
        said = await self.networks.of_task("team", name, given, told=told)
        return [(one.holds, one.reason, one.message) for one in said]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_what_is_wanted_is_made_once(bench):
    bench.tasks(a=None, b=SHUT, c=LISTED)
    assert await bench.turn() == ["created"] * 3
    assert bench.names() == ["milepost-task-c", "milepost-tasks", "milepost-tasks-open"]
    assert bench.left_out() == ["b", "c"]
    assert await bench.turn() == []


async def test_a_change_of_a_task_takes_hold(bench):
    bench.tasks(a=None)
    await bench.turn()
    bench.tasks(a=LISTED)
    assert await bench.turn() == ["replaced", "created"]
    assert bench.left_out() == ["a"]
    bench.tasks(a=SHUT)
    assert await bench.turn() == []
    assert await bench.turn() == ["deleted"]
    assert bench.left_out() == ["a"]
    bench.tasks(a=None)
    assert await bench.turn() == ["replaced"]
    assert bench.left_out() == []


async def test_what_somebody_changed_is_mended(bench):
    bench.tasks(a=LISTED)
    await bench.turn()
    bench.policy("milepost-tasks")["spec"]["egress"].append({})
    bench.policy("milepost-task-a")["metadata"]["labels"].pop("milepost.dev/task")
    bench.cluster.remove("policies", "team", "milepost-tasks-open")
    assert sorted(await bench.turn()) == ["created", "replaced", "replaced"]
    bench.policy("milepost-tasks")["metadata"]["labels"].clear()  # not seen as ours any more
    assert await bench.turn() == ["created"]
    assert await bench.turn() == []


async def test_what_is_of_no_use_goes_at_the_second_look(bench):
    bench.tasks(a=LISTED)
    await bench.turn()
    bench.tasks()
    assert await bench.turn() == []
    bench.tasks(a=LISTED)  # a new database, to which the Tasks are told anew
    assert await bench.turn() == []
    bench.tasks()
    assert await bench.turn() == []
    assert await bench.turn() == ["deleted"] * 3
    assert bench.names() == []


async def test_addresses_of_the_api_server_are_read_anew(bench):
    bench.tasks(a=None)
    await bench.turn()
    bench.cluster.api_server = ["203.0.113.9"]
    assert await bench.turn() == ["replaced"]
    (rule,) = bench.policy("milepost-tasks-open")["spec"]["egress"]
    assert "203.0.113.9/32" in rule["to"][0]["ipBlock"]["except"]


async def test_a_namespace_that_fails_hinders_no_other(bench):
    bench.store.networks = [TaskNetwork("bad", "t", None), TaskNetwork("team", "t", None)]
    bench.cluster.fail["create_policy"] = [ForbiddenError("the namespace is being terminated")]
    assert await bench.turn() == ["created"] * 2
    assert {policy["metadata"]["namespace"] for policy in bench.cluster.of("policies")} == {"team"}


@pytest.mark.parametrize("wrong", ["refused", "unreadable"])
async def test_a_task_that_is_refused_is_shut_and_hinders_no_other(bench, wrong):
    bad = LISTED if wrong == "refused" else {"egress": "nonsense"}
    bench.tasks(a=bad, b=LISTED, c=None)
    if wrong == "refused":
        bench.cluster.refuse["milepost-task-a"] = InvalidInputError("invalid", "a selector without values")
    assert await bench.turn() == ["created"] * 3
    assert bench.names() == ["milepost-task-b", "milepost-tasks", "milepost-tasks-open"]
    assert bench.left_out() == ["a", "b"]
    for task, given in (("b", LISTED), ("c", None)):
        await bench.networks.before("team", task, given)
    with pytest.raises(InvalidInputError):
        await bench.networks.before("team", "a", bad)


async def test_a_pod_waits_for_its_network_and_later_ones_cost_nothing(bench):
    bench.tasks(a=LISTED, b=None)
    await bench.networks.before("team", "a", LISTED)
    assert bench.left_out() == ["a"]
    before = len(bench.cluster.calls)
    for task, network in (("a", LISTED), ("b", None), ("new", None)):
        await bench.networks.before("team", task, network)
    assert len(bench.cluster.calls) == before
    bench.tasks(a=SHUT, b=None)
    await bench.networks.before("team", "a", SHUT)
    assert len(bench.cluster.calls) > before


async def test_a_task_says_what_became_of_it(bench):
    bench.tasks(a=LISTED)
    ((holds, reason, message),) = await bench.of_task("a", LISTED)
    assert (holds, reason) == (True, "Applied")
    assert message.startswith("egress to 1 destination;")
    assert bench.left_out() == ["a"]
    assert await bench.of_task("b", None) == []
    ((_, _, message),) = await bench.of_task("b", None, told=True)
    assert message.startswith("egress to the world;")


async def test_a_refused_policy_is_told(bench):
    bench.tasks(a=SHUT)
    bench.cluster.fail["create_policy"] = [ForbiddenError("no quota for networkpolicies")]
    assert await bench.of_task("a", SHUT) == [
        (False, "Refused", "no new pod begins: no quota for networkpolicies"),
    ]
    bench.cluster.fail["list_policies"] = [UnavailableError("no answer")]
    with pytest.raises(UnavailableError):
        await bench.of_task("a", SHUT)


async def test_no_task_opens_what_is_closed(bench):
    with pytest.raises(InvalidInputError, match="closed to all tasks"):
        bench.networks.check({"allow": [{"cidr": "169.254.169.254/32"}]})


async def test_switched_off_its_policies_go(bench):
    bench.tasks(a=SHUT)
    await bench.turn()
    off = Bench(None)
    off.store, off.cluster = bench.store, bench.cluster
    off.networks = TaskNetworks(off.store, off.cluster, None, (), on_written=off.written.append)
    assert await off.turn() == []
    assert await off.turn() == ["deleted"] * 2
    await off.networks.before("team", "a", SHUT)
    assert off.names() == []
    ((holds, reason, _),) = await off.of_task("a", SHUT)
    assert (holds, reason) == (False, "Disabled")
    assert await off.of_task("a", None, told=True) == []
