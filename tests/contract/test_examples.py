"""A real API server takes the examples' manifests and those of the first page, field by field."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from milepost_operator.adapters.kube.client import KubeClient
from milepost_operator.adapters.kube.config import from_kubeconfig
from tests.apiserver import API
from tests.unit.docs.test_manifests import MANIFESTS

pytestmark = pytest.mark.usefixtures("crds")
ROOT = Path(__file__).parents[2]
STRICT = {"dryRun": "All", "fieldValidation": "Strict"}
NAMESPACE = "namespaces/default"
PLACES = {
    "Task": f"{API}/{NAMESPACE}/tasks",
    "Run": f"{API}/{NAMESPACE}/runs",
    "Queue": f"{API}/{NAMESPACE}/queues",
    "Deployment": f"/apis/apps/v1/{NAMESPACE}/deployments",
    "Service": f"/api/v1/{NAMESPACE}/services",
    "PersistentVolumeClaim": f"/api/v1/{NAMESPACE}/persistentvolumeclaims",
}
EXAMPLES = {
    f"{path.parent.name}/{path.name} {manifest['kind']} {manifest['metadata'].get('name', '')}": manifest
    for path in sorted((ROOT / "examples").glob("*/*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text())
}
FIRST_PAGES = {where: one for where, one in MANIFESTS.items() if where.startswith(("README", "docs/getting-started"))}


@pytest.fixture
async def kube(kubeconfig: Path) -> AsyncIterator[KubeClient]:
    async with KubeClient(from_kubeconfig(kubeconfig)) as client:
        yield client


@pytest.mark.parametrize("where", [*EXAMPLES, *FIRST_PAGES])
async def test_a_manifest_is_taken(kube: KubeClient, where: str) -> None:
    manifest = (EXAMPLES | FIRST_PAGES)[where]
    got = await kube.create(PLACES[manifest["kind"]], manifest, STRICT)
    assert got["kind"] == manifest["kind"]
