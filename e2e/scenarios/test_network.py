"""The network of tasks, by traffic: they get out, and nobody gets in; what is closed stays closed.

Everything that a task must not reach is shown to answer a pod of the same namespace that is none of ours.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from e2e.cluster.capabilities import Capability
from e2e.harness.kubectl import dig
from e2e.harness.lab import COLD, Lab, Run
from e2e.harness.outside import METADATA, WORLD, outside
from e2e.harness.release import NAME
from e2e.harness.release import NAMESPACE as SYSTEM
from e2e.harness.wait import eventually
from e2e.images.build import BuiltImage
from e2e.scenarios import reach
from e2e.scenarios.conftest import skip_without

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

CLOSED = {"neighbour", "api-server", "node", "kubelet", "metadata", "database", "metrics"}
TO_WORLD = {"cidr": f"{WORLD}/32", "ports": [{"port": 80}]}
TO_NEIGHBOUR = {"podSelector": {"matchLabels": {"app": "far"}}, "ports": [{"port": 8080}]}


@dataclass(frozen=True)
class Scene:
    """A namespace with two pods of somebody else (`near` looks, `far` serves), and all there is to be reached."""

    lab: Lab
    targets: reach.Targets

    def look(self, task: str, **network: object) -> dict[str, object]:
        """What the pods of a Task reach."""
        self.lab.task(task, reach.TASK, **({"network": network} if network else {}))
        return reach.from_task(self.lab, task, self.targets)


def opened(found: Mapping[str, object]) -> set[str]:
    return {name for name, open_ in found.items() if open_}


def told(run: Run) -> str:
    """What the run says of its progress, once it does."""
    query = f"select progress_message from run_heads where run_id = '{run.id}'"
    return eventually("a word of the run", lambda: str(run.lab.sql.value(query) or ""), 30, diagnose=run.diagnose)


@pytest.fixture(scope="module")
def scene(shared_lab: Lab, images: Mapping[str, BuiltImage]) -> Iterator[Scene]:
    lab = shared_lab
    skip_without(lab.platform, Capability.OUTSIDE, Capability.NETWORK_POLICY)
    with outside():
        lab.kubectl.apply(
            *(reach.pod(name, images["control-plane"].ref) for name in ("near", "far")), namespace=lab.namespace
        )
        server = lab.kubectl.get("endpoints", "kubernetes", "default")
        behind = str(dig(server, "subsets", 0, "addresses", 0, "ip"))
        service = str(dig(lab.kubectl.get("service", "kubernetes", "default"), "spec", "clusterIP"))
        api = lab.release.pods("api")[0]
        reach.address(lab, "near")
        yield Scene(
            lab,
            {
                "world": [WORLD, 80],
                "world-8080": [WORLD, 8080],
                "api": [f"{NAME}-api.{SYSTEM}.svc", 8443],  # by its name: DNS is open, too
                "neighbour": [reach.address(lab, "far"), 8080],
                "api-server": [service, 443],
                "node": [behind, 6443],
                "kubelet": [behind, 10250],
                "metadata": [METADATA, 80],
                "database": [f"{NAME}-postgres.{SYSTEM}.svc", 5432],
                "metrics": [str(dig(api, "status", "podIP")), 9090],
            },
        )


def test_before_policies_everything_answers(scene: Scene) -> None:
    """A pod that is none of ours: all but what the chart closes to everybody."""
    assert opened(reach.from_pod(scene.lab, "near", scene.targets)) == set(scene.targets) - {"database", "metrics"}


def test_tasks_get_out_and_no_further(scene: Scene) -> None:
    assert opened(scene.look("plain")) == set(scene.targets) - CLOSED


def test_a_list_opens_what_it_names(scene: Scene) -> None:
    assert opened(scene.look("listed", egress="restricted", allow=[TO_WORLD, TO_NEIGHBOUR])) == {
        "world",
        "api",
        "neighbour",
    }


def test_a_list_comes_beside_the_world(scene: Scene) -> None:
    assert opened(scene.look("more", allow=[TO_NEIGHBOUR])) == {"world", "world-8080", "api", "neighbour"}


def test_none_leaves_the_sidecar_its_api(scene: Scene) -> None:
    assert opened(scene.look("shut", egress="none")) == {"api"}


def test_no_list_opens_what_is_closed(scene: Scene) -> None:
    everything = [{"cidr": "0.0.0.0/0"}, {"podSelector": {}, "namespaceSelector": {}}]
    found = opened(scene.look("greedy", egress="restricted", allow=everything))
    assert found == {"world", "world-8080", "api", "neighbour"}


def test_a_change_takes_hold_of_a_pod_at_work_and_makes_no_version(scene: Scene) -> None:
    lab = scene.lab
    lab.task("watch", reach.WATCH)
    run = lab.run("watch", given={"host": WORLD, "port": 80})
    told(run)
    lab.kubectl.patch("mtask", "watch", {"spec": {"network": {"egress": "none"}}}, lab.namespace)
    run.wait("Succeeded", timeout=30)
    assert int(str(run.result_members()["answers"])) > 0
    status = dig(lab.kubectl.get("mtask", "watch", lab.namespace), "status")
    assert dig(status, "version") == 1
    conditions = dig(status, "conditions")
    assert isinstance(conditions, list)
    (said,) = [one for one in conditions if one["type"] == "NetworkApplied"]
    assert (said["status"], said["reason"]) == ("True", "Applied")
    assert "egress to nothing" in said["message"]


@pytest.mark.needs("node-access")
def test_nobody_gets_in_but_the_node(scene: Scene) -> None:
    """The kubelet's probes come from there."""
    lab = scene.lab
    lab.task("listen", reach.LISTEN, warm=COLD)
    run = lab.run("listen", given={"port": 8080})
    target: reach.Targets = {"task": [told(run), 8080]}
    try:
        assert reach.from_pod(lab, "near", target) == {"task": False}
        assert reach.from_node(lab, str(run.live().pod), target) == {"task": True}
    finally:
        lab.kubectl.patch("mrun", run.name, {"spec": {"cancel": True}}, lab.namespace)
        run.wait("Cancelled")


def test_the_policies_go_with_the_tasks(lab: Lab) -> None:
    lab.task("quick", reach.TASK, network={"egress": "none"}, warm=COLD)

    def names() -> set[str]:
        return {str(dig(one, "metadata", "name")) for one in lab.kubectl.items("networkpolicies", lab.namespace)}

    eventually("its policies", lambda: names() == {"milepost-tasks", "milepost-tasks-open"}, 20)
    lab.kubectl.delete("networkpolicy", "milepost-tasks-open", lab.namespace)
    eventually("the one that somebody deleted", lambda: "milepost-tasks-open" in names(), 40)
    lab.kubectl.delete("mtask", "quick", lab.namespace)
    eventually("the end of its policies", lambda: not names(), 60)
