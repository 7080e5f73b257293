"""Every rendering is taken by a real API server, in a namespace that enforces restricted pods."""

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from e2e.cluster import binaries
from tests.chart import helm

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif("KUBECONFIG" not in os.environ, reason="KUBECONFIG names no cluster"),
]
LEVELS = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


def kubectl(*words: str, objects: list[helm.Object]) -> subprocess.CompletedProcess[str]:
    listing = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    argv = [str(binaries.binaries() / "kubectl"), *words, "-f", "-"]
    return subprocess.run(argv, input=listing, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    name = f"chart-{os.getpid()}"
    this = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": LEVELS}}
    made = kubectl("create", objects=[this])
    assert made.returncode == 0, made.stderr
    yield name
    kubectl("delete", "--wait=false", objects=[this])


@pytest.mark.parametrize("variant", helm.VARIANTS)
def test_server_takes_every_object_without_a_warning(namespace: str, variant: str) -> None:
    values = helm.VARIANTS[variant]
    if "namespaces" in values:
        values = {**values, "namespaces": [namespace]}
    objects = helm.render(values, namespace=namespace)
    objects = [i for i in objects if i["kind"] != "ServiceMonitor"]  # its kind is not in this cluster
    for pod in helm.of_kind(objects, "Pod"):
        pod["spec"]["serviceAccountName"] = "default"  # its own is made just before it
    done = kubectl("apply", "--dry-run=server", "--validate=strict", objects=objects)
    assert done.returncode == 0, done.stderr
    unexpected = [line for line in done.stderr.splitlines() if "last-applied-configuration" not in line]
    assert unexpected == []
