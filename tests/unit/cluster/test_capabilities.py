"""Tests ask for what a cluster offers; the versions and providers it can be had of."""

from pathlib import Path

import pytest
import yaml

from e2e.cluster import binaries, versions
from e2e.cluster.capabilities import Capability, lacking, named
from e2e.cluster.external import ExternalCluster
from e2e.cluster.host import HostCluster
from e2e.cluster.shell import Problem


def test_what_is_lacking_is_named_in_the_order_it_was_asked_for() -> None:
    offered = frozenset({Capability.NODE_ACCESS})
    assert lacking(["node-access"], offered) == []
    assert lacking(["network-policy, node-access", "audit-log"], offered) == ["network-policy", "audit-log"]


def test_an_unknown_capability_is_one_sentence_with_those_there_are() -> None:
    with pytest.raises(Problem, match=r"no cluster has the capability netpol: there are .*network-policy"):
        named("netpol")


def test_a_cluster_of_this_machine_offers_all_and_a_foreign_one_what_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert HostCluster.capabilities == set(Capability)
    foreign = ExternalCluster(tmp_path / "config")
    assert foreign.capabilities == set()
    monkeypatch.setenv("MILEPOST_CLUSTER_CAN", "network-policy,node-access")
    assert foreign.capabilities == {Capability.NETWORK_POLICY}  # its nodes are out of reach, whatever is said


def test_kubernetes_is_chosen_by_its_minor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MILEPOST_K8S", raising=False)
    newest = binaries.kube()
    assert versions.kubernetes({}) == versions.PINNED[versions.NEWEST]
    monkeypatch.setenv("MILEPOST_K8S", "1.35")
    older = binaries.kube()
    assert f"gitVersion=v{versions.PINNED['1.35']}" in older.ldflags
    assert binaries.recipe_hash(older) != binaries.recipe_hash(newest)
    with pytest.raises(Problem, match=r"set K8S to 1\.35 or 1\.36"):
        versions.chosen({"MILEPOST_K8S": "1.12"})


def test_the_chart_asks_for_no_older_kubernetes_than_the_scenarios_run_on() -> None:
    chart = Path(__file__).parents[3] / "charts/milepost"
    asked = yaml.safe_load((chart / "Chart.yaml").read_text())["kubeVersion"]
    assert asked == f">={min(versions.PINNED)}.0-0"
    told = (chart / "README.md").read_text()
    assert f"(the scenarios run on {' and '.join(sorted(versions.PINNED.values()))})" in told
