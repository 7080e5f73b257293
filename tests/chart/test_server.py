"""Every rendering is taken by a real API server, in a namespace that enforces restricted pods."""

import json
import subprocess
from pathlib import Path

import pytest

from e2e.cluster import binaries
from tests.chart import helm

LEVELS = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}


def kubectl(kubeconfig: Path, *words: str, objects: list[helm.Object]) -> subprocess.CompletedProcess[str]:
    listing = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    argv = [str(binaries.kube_programs() / "kubectl"), f"--kubeconfig={kubeconfig}", *words, "-f", "-"]
    return subprocess.run(argv, input=listing, capture_output=True, text=True, timeout=50, check=False)


@pytest.fixture(scope="module")
def namespace(kubeconfig: Path) -> str:
    name = "chart"
    this = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": LEVELS}}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}
    made = kubectl(kubeconfig, "create", objects=[this, account])  # no controller makes the account
    assert made.returncode == 0, made.stderr
    return name


@pytest.mark.parametrize("variant", helm.VARIANTS)
def test_server_takes_every_object_without_a_warning(kubeconfig: Path, namespace: str, variant: str) -> None:
    values = helm.VARIANTS[variant]
    if "namespaces" in values:
        values = {**values, "namespaces": [namespace]}
    objects = helm.render(values, namespace=namespace)
    objects = [i for i in objects if i["kind"] != "ServiceMonitor"]  # its kind is not in this cluster
    for pod in helm.of_kind(objects, "Pod"):
        pod["spec"]["serviceAccountName"] = "default"  # its own is made just before it
    done = kubectl(kubeconfig, "apply", "--dry-run=server", "--validate=strict", objects=objects)
    assert done.returncode == 0, done.stderr
    unexpected = [line for line in done.stderr.splitlines() if "last-applied-configuration" not in line]
    assert unexpected == []
