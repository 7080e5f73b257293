"""What scenarios read through a proxy is what kubectl itself gives, on one API server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.binaries import kube_programs
from e2e.harness.kubectl import Kubectl, KubectlError


@pytest.fixture
def kubectl(kubeconfig: Path) -> Iterator[Kubectl]:
    made = Kubectl(kube_programs() / "kubectl", kubeconfig)
    yield made
    made._reads.close()


def config_map(name: str, **labels: str) -> dict[str, object]:
    meta = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"a": "1"}}


def theirs(kubectl: Kubectl, *words: str) -> object:
    return json.loads(kubectl.run("get", *words, "-o", "json"))


@pytest.mark.parametrize("kind", ["configmaps", "configmap", "cm"])
def test_objects_are_as_kubectl_gives_them_under_each_name_of_their_kind(kubectl: Kubectl, kind: str) -> None:
    kubectl.apply(config_map("one", app="x"), config_map("two", app="y"), namespace="default")
    assert kubectl.get(kind, "one", "default") == theirs(kubectl, kind, "one", "-n", "default")
    assert kubectl.get(kind, "one") == kubectl.get(kind, "one", "default")
    assert kubectl.items(kind, "default") == theirs(kubectl, kind, "-n", "default")["items"]  # type: ignore[index]
    assert [item["metadata"]["name"] for item in kubectl.items(kind, "default", "app=y")] == ["two"]  # type: ignore[index]


def test_kinds_of_other_groups_and_of_no_namespace(kubectl: Kubectl) -> None:
    for kind in ("clusterroles.rbac.authorization.k8s.io", "clusterroles", "ns"):
        assert kubectl.items(kind) == theirs(kubectl, kind)["items"]  # type: ignore[index]
    assert kubectl.get("namespace", "default") == theirs(kubectl, "namespace", "default")


def test_a_kind_that_comes_later_is_found(kubectl: Kubectl) -> None:
    with pytest.raises(KubectlError, match="doesn't have a resource type"):
        kubectl.items("latecomers", "default")
    schema = {"openAPIV3Schema": {"type": "object"}}
    kubectl.apply(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "latecomers.example.org"},
            "spec": {
                "group": "example.org",
                "scope": "Namespaced",
                "names": {"plural": "latecomers", "singular": "latecomer", "kind": "Latecomer"},
                "versions": [{"name": "v1", "served": True, "storage": True, "schema": schema}],
            },
        }
    )
    kubectl.run("wait", "--for=condition=Established", "crd/latecomers.example.org", "--timeout=20s")
    assert kubectl.items("latecomer", "default") == []


def test_what_is_not_there_is_told_from_what_fails(kubectl: Kubectl) -> None:
    assert kubectl.find("configmap", "none", "default") is None
    with pytest.raises(KubectlError) as absent:
        kubectl.get("configmap", "none", "default")
    assert absent.value.not_found
    assert absent.value.stderr == 'Error from server (NotFound): configmaps "none" not found'


def test_a_proxy_that_ended_is_started_again(kubectl: Kubectl) -> None:
    before = kubectl.get("namespace", "default")
    kubectl._reads._process.terminate()  # type: ignore[union-attr]
    kubectl._reads._process.wait()  # type: ignore[union-attr]
    assert kubectl.get("namespace", "default") == before


def test_without_an_api_server_it_is_an_error_and_no_absence(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:9"}}],
                "users": [{"name": "x", "user": {}}],
            }
        )
    )
    kubectl = Kubectl(kube_programs() / "kubectl", tmp_path / "config")
    with pytest.raises(KubectlError) as error:
        kubectl.find("namespace", "default")
    assert not error.value.not_found
    kubectl._reads.close()
