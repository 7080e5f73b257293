"""The generated CRDs against a real API server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from milepost_operator.adapters.kube.client import KubeClient, KubeError, KubeInvalid
from milepost_operator.adapters.kube.config import from_kubeconfig
from milepost_operator.crds.generate import RESOURCES, all_crds
from tests.apiserver import API, CRDS
from tests.fakes.crd_samples import BAD, CHANGES, GOOD, RUN, Body, run

pytestmark = pytest.mark.usefixtures("crds")
DRY = {"dryRun": "All"}
PLURALS = {resource.kind: resource.plural for resource in RESOURCES}


@pytest.fixture
async def kube(kubeconfig: Path) -> AsyncIterator[KubeClient]:
    async with KubeClient(from_kubeconfig(kubeconfig)) as client:
        yield client


def path_of(body: Body) -> str:
    return f"{API}/namespaces/default/{PLURALS[body['kind']]}"


async def test_the_api_server_takes_every_crd_as_structural(kube: KubeClient) -> None:
    for crd in all_crds().values():
        got = await kube.get(f"{CRDS}/{crd['metadata']['name']}")
        conditions = {condition["type"]: condition["status"] for condition in got["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}  # and no NonStructuralSchema


@pytest.mark.parametrize("name", GOOD)
async def test_a_good_object_is_taken_whole(kube: KubeClient, name: str) -> None:
    got = await kube.create(path_of(GOOD[name]), GOOD[name], DRY | {"fieldValidation": "Strict"})
    assert got["spec"] == GOOD[name]["spec"]


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_object_is_refused_with_its_field(kube: KubeClient, name: str) -> None:
    body, said = BAD[name]
    with pytest.raises(KubeInvalid) as caught:
        await kube.create(path_of(body), body, DRY)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", CHANGES)
async def test_of_a_runs_spec_only_cancel_can_change(kube: KubeClient, name: str) -> None:
    patch, said = CHANGES[name]
    made = await kube.create(path_of(run({})), run(RUN))
    path = f"{path_of(made)}/{made['metadata']['name']}"
    try:
        if said is None:
            await kube.patch(path, {"spec": patch})
            with pytest.raises(KubeInvalid, match="can't be taken back"):
                await kube.patch(path, {"spec": {"cancel": False}})
        else:
            with pytest.raises(KubeInvalid) as caught:
                await kube.patch(path, {"spec": patch})
            assert said in str(caught.value)
    finally:
        await kube.delete(path)


async def test_input_is_kept_as_it_is(kube: KubeClient) -> None:
    body = run({"task": "a", "input": {"deep": [{"x": None}, 1.5, "text"], "spec": {"y": True}}})
    made = await kube.create(path_of(body), body)
    try:
        assert made["spec"]["input"] == body["spec"]["input"]
    finally:
        await kube.delete(f"{path_of(body)}/{made['metadata']['name']}")


async def test_selectable_fields_select(kube: KubeClient) -> None:
    made = await kube.create(path_of(run({})), run(RUN | {"task": "only-this"}))
    path = f"{path_of(made)}/{made['metadata']['name']}"
    try:
        got = await kube.list(path_of(made), {"fieldSelector": "spec.task=only-this"})
        assert [item["metadata"]["name"] for item in got["items"]] == [made["metadata"]["name"]]
        with pytest.raises(KubeError):
            await kube.list(path_of(made), {"fieldSelector": "spec.input=x"})
    finally:
        await kube.delete(path)
