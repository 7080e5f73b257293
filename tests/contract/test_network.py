"""NetworkPolicies of tasks on a real API server: it takes them, and gives them back as they were written."""

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from milepost_operator.adapters.kube.client import KubeClient, KubeConflict
from milepost_operator.adapters.kube.cluster import Cluster
from milepost_operator.adapters.kube.config import from_kubeconfig
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.manifests.network import NetworkSettings
from milepost_operator.ports.network import TaskNetwork
from milepost_operator.reconcile.network import TaskNetworks

SETTINGS = NetworkSettings(
    "system",
    {"app.kubernetes.io/component": "api"},
    8443,
    closed=["169.254.0.0/16", "fd00:ec2::254/128"],
    private=["10.0.0.0/8", "fc00::/7"],
    open_to=[{"to": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}], "ports": [{"port": 80, "protocol": "TCP"}]}],
)
LISTED = {
    "egress": "restricted",
    "allow": [
        {"cidr": "0.0.0.0/0", "ports": [{"port": 443}, {"protocol": "UDP", "port": 1, "endPort": 9}]},
        {"cidr": "2001:db8::/32"},
        {"podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}, "namespaceSelector": {}},
        {"cidr": "169.254.0.0/16"},
    ],
}
BEHIND = {
    "metadata": {"name": "kubernetes"},
    "addressType": "IPv4",
    "endpoints": [{"addresses": ["192.0.2.7"]}],
    "ports": [{"name": "https", "port": 6443}],
}


class Rows:
    """What the store would say."""

    def __init__(self, namespace: str, tasks: dict[str, Any]) -> None:
        self.namespace, self.tasks = namespace, tasks

    async def task_networks(self, namespace: str | None) -> Sequence[TaskNetwork]:
        assert namespace in {None, self.namespace}
        return [TaskNetwork(self.namespace, name, given) for name, given in self.tasks.items()]


class Bench:
    def __init__(self, kube: KubeClient, namespace: str) -> None:
        self.kube = kube
        self.path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
        self.rows = Rows(namespace, {"plain": None, "shut": {"egress": "none"}, "listed": LISTED})
        self.written: list[str] = []
        self.networks = TaskNetworks(self.rows, Cluster(kube), SETTINGS, (namespace,), on_written=self.written.append)

    async def turn(self) -> list[str]:
        self.written.clear()
        await self.networks.turn()
        return list(self.written)

    async def spec(self, name: str) -> dict[str, Any]:
        got = await self.kube.get(f"{self.path}/{name}")
        spec: dict[str, Any] = got["spec"]
        return spec


@pytest.fixture
async def bench(kubeconfig: Path) -> AsyncIterator[Bench]:
    async with KubeClient(from_kubeconfig(kubeconfig)) as kube:
        namespace = f"net-{uuid.uuid4().hex[:8]}"
        await kube.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        with suppress(KubeConflict):  # an API server on a loopback address makes none
            await kube.create("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", BEHIND)
        yield Bench(kube, namespace)


async def test_what_was_written_is_found_as_it_was_written(bench: Bench) -> None:
    assert await bench.turn() == ["created"] * 3
    assert await bench.turn() == []


async def test_the_address_of_this_api_server_is_closed(bench: Bench) -> None:
    service = await bench.kube.get("/api/v1/namespaces/default/services/kubernetes")
    await bench.turn()
    shut = (await bench.spec("milepost-task-listed"))["egress"][0]["to"][0]["ipBlock"]["except"]
    assert f"{service['spec']['clusterIP']}/32" in shut
    assert "192.0.2.7/32" in shut


async def test_what_somebody_changed_is_mended(bench: Bench) -> None:
    await bench.turn()
    await bench.kube.patch(f"{bench.path}/milepost-tasks", {"spec": {"ingress": [{}]}, "metadata": {"labels": None}})
    await bench.kube.patch(f"{bench.path}/milepost-tasks-open", {"spec": {"egress": [{}]}})
    await bench.kube.delete(f"{bench.path}/milepost-task-listed")
    assert sorted(await bench.turn()) == ["created", "created", "replaced"]
    assert "ingress" not in await bench.spec("milepost-tasks")
    assert await bench.turn() == []


async def test_all_of_them_go_with_the_tasks(bench: Bench) -> None:
    await bench.turn()
    bench.rows.tasks = {}
    await bench.turn()
    assert await bench.turn() == ["deleted"] * 3
    assert (await bench.kube.list(bench.path))["items"] == []


async def test_a_selector_that_the_api_server_finds_wrong_is_told(bench: Bench) -> None:
    bad = {"podSelector": {"matchExpressions": [{"key": "app", "operator": "In"}]}}
    bench.rows.tasks["listed"] = {"egress": "restricted", "allow": [bad]}
    ((holds, said),) = [
        (one.holds, one.message)
        for one in await bench.networks.of_task(bench.rows.namespace, "listed", bench.rows.tasks["listed"], told=False)
    ]
    assert not holds
    assert "matchExpressions" in said
    with pytest.raises(InvalidInputError):
        bench.networks.check({"allow": [{"cidr": "169.254.169.254/32"}]})
