"""Our client of the Kubernetes API next to the official one, on one API server: the same answers, the same refusals."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config, watch

from milepost_operator.adapters.kube.client import (
    APPLY,
    JSON_PATCH,
    KubeClient,
    KubeConflict,
    KubeError,
    KubeForbidden,
    KubeGone,
    KubeInvalid,
    KubeNotFound,
)
from milepost_operator.adapters.kube.config import from_kubeconfig
from tests.apiserver import API

Object = dict[str, Any]


class Witness:
    """The official client, in one namespace; answers as plain JSON."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        self.api = config.new_client_from_config(str(kubeconfig))
        self.core = client.CoreV1Api(self.api)
        self.objects = client.CustomObjectsApi(self.api)
        self.namespace = namespace
        self.path = f"/api/v1/namespaces/{namespace}/configmaps"

    def call(self, verb: str, *names: str, body: object = None, **options: Any) -> Object:
        """E.g. `call("read", "a")`; raises ApiException."""
        words = [*names, self.namespace, *([] if body is None else [body])]
        method = getattr(self.core, f"{verb}_namespaced_config_map")
        answer: Object = json.loads(method(*words, _preload_content=False, **options).data)
        return answer

    def refused(self, verb: str, *names: str, **options: Any) -> Object:
        """The Status that the call ends with."""
        with pytest.raises(client.ApiException) as caught:
            self.call(verb, *names, **options)
        return json.loads(caught.value.body)


async def refused(call: Awaitable[object], kind: type[KubeError]) -> KubeError:
    with pytest.raises(KubeError) as caught:
        await call
    assert type(caught.value) is kind
    return caught.value


def assert_alike(ours: KubeError, theirs: Object) -> None:
    assert (ours.status, ours.reason, ours.message) == (theirs["code"], theirs["reason"], theirs["message"])


def since(version: str, seconds: int) -> Object:
    """Options of the official client's watch."""
    return {"resource_version": version, "timeout_seconds": seconds}


def config_map(name: str = "", **data: str) -> Object:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
    return body if name else body | {"metadata": {"generateName": "some-"}}


@pytest.fixture
def witness(kubeconfig: Path) -> Iterator[Witness]:
    made = Witness(kubeconfig, f"client-{secrets.token_hex(4)}")
    with made.api:
        made.core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=made.namespace)))
        yield made


@pytest.fixture
async def kube(kubeconfig: Path) -> AsyncIterator[KubeClient]:
    async with KubeClient(from_kubeconfig(kubeconfig)) as ours:
        yield ours


async def test_what_one_writes_the_other_reads(kube: KubeClient, witness: Witness) -> None:
    theirs = witness.call("create", body=config_map("theirs", text="ä\n", empty=""))
    assert await kube.get(f"{witness.path}/theirs") == theirs
    ours = await kube.create(witness.path, config_map("ours", text="ä\n", empty=""))
    assert witness.call("read", "ours") == ours
    assert await kube.replace(f"{witness.path}/ours", ours | {"data": {"a": "b"}}) == witness.call("read", "ours")
    await kube.delete(f"{witness.path}/ours", {"preconditions": {"uid": ours["metadata"]["uid"]}})
    assert_alike(await refused(kube.get(f"{witness.path}/ours"), KubeNotFound), witness.refused("read", "ours"))


async def test_a_name_is_generated(kube: KubeClient, witness: Witness) -> None:
    made = [await kube.create(witness.path, config_map()) for _ in range(3)]
    names = {item["metadata"]["name"] for item in made}
    assert len(names) == 3
    assert all(name.startswith("some-") and len(name) == len("some-") + 5 for name in names)
    assert {item["metadata"]["name"] for item in witness.call("list")["items"]} == names


async def test_pages_add_up_to_the_whole_list(kube: KubeClient, witness: Witness) -> None:
    for number in range(5):
        labels = {"labels": {"odd": str(number % 2)}}
        body = config_map(f"m{number}")
        await kube.create(witness.path, body | {"metadata": body["metadata"] | labels})
    pages = [await kube.list(witness.path, {"limit": 2})]
    while token := pages[-1]["metadata"].get("continue"):
        pages.append(await kube.list(witness.path, {"limit": 2, "continue": token}))
    assert [len(page["items"]) for page in pages] == [2, 2, 1]
    whole = witness.call("list")
    assert [item for page in pages for item in page["items"]] == whole["items"]
    assert {page["metadata"]["resourceVersion"] for page in pages} == {pages[0]["metadata"]["resourceVersion"]}
    odd = await kube.list(witness.path, {"labelSelector": "odd=1"})
    assert (
        odd["items"] == witness.call("list", label_selector="odd=1")["items"] == [whole["items"][1], whole["items"][3]]
    )


async def test_both_watch_the_same_events(kube: KubeClient, witness: Witness) -> None:
    version = (await kube.list(witness.path))["metadata"]["resourceVersion"]

    async def ours() -> list[Object]:
        query = {"resourceVersion": version, "timeoutSeconds": 3}
        return [event async for event in kube.watch(witness.path, query)]

    watching = asyncio.create_task(ours())
    await asyncio.to_thread(witness.call, "create", body=config_map("seen", big="x" * 900_000))
    await asyncio.to_thread(witness.call, "patch", "seen", body={"data": {"big": None, "a": "b"}})
    await asyncio.to_thread(witness.call, "delete", "seen")
    events = await watching  # the server ends it in order
    assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED"]
    stream = watch.Watch().stream(witness.core.list_namespaced_config_map, witness.namespace, **since(version, 1))
    theirs = [{"type": event["type"], "object": event["raw_object"]} for event in stream]
    assert events == theirs


async def test_every_kind_of_patch_does_what_it_says(kube: KubeClient, witness: Witness) -> None:
    path = f"{witness.path}/m"
    await kube.create(witness.path, config_map("m", a="1", b="2"))
    merged = await kube.patch(path, {"data": {"a": None, "c": "3"}})
    assert merged == witness.call("read", "m")
    assert merged["data"] == {"b": "2", "c": "3"}
    steps = [{"op": "test", "path": "/data/b", "value": "2"}, {"op": "replace", "path": "/data/b", "value": "4"}]
    assert (await kube.patch(path, steps, JSON_PATCH))["data"] == {"b": "4", "c": "3"}
    error = await refused(kube.patch(path, steps, JSON_PATCH), KubeInvalid)
    assert_alike(error, witness.refused("patch", "m", body=steps))
    applied = await kube.patch(path, config_map("m", d="5"), APPLY, {"fieldManager": "one"})
    assert applied == witness.call("read", "m")
    assert applied["data"] == {"b": "4", "c": "3", "d": "5"}
    other = config_map("m", d="6")
    error = await refused(kube.patch(path, other, APPLY, {"fieldManager": "two"}), KubeConflict)
    said = witness.refused("patch", "m", body=other, field_manager="two", _content_type=APPLY)
    assert_alike(error, said)
    forced = await kube.patch(path, other, APPLY, {"fieldManager": "two", "force": "true"})
    assert forced["data"]["d"] == "6"


async def test_409_is_a_conflict(kube: KubeClient, witness: Witness) -> None:
    first = await kube.create(witness.path, config_map("m", a="1"))
    error = await refused(kube.create(witness.path, config_map("m")), KubeConflict)
    assert_alike(error, witness.refused("create", body=config_map("m")))
    assert error.reason == "AlreadyExists"
    witness.call("patch", "m", body={"data": {"a": "2"}})
    stale = first | {"data": {"a": "3"}}
    error = await refused(kube.replace(f"{witness.path}/m", stale), KubeConflict)
    assert_alike(error, witness.refused("replace", "m", body=stale))
    assert error.reason == "Conflict"
    assert witness.call("read", "m")["data"] == {"a": "2"}


async def test_422_is_invalid(kube: KubeClient, witness: Witness) -> None:
    error = await refused(kube.create(witness.path, config_map("No_Name")), KubeInvalid)
    assert_alike(error, witness.refused("create", body=config_map("No_Name")))
    await kube.create(witness.path, config_map("fixed") | {"immutable": True})
    change = {"data": {"a": "1"}}
    error = await refused(kube.patch(f"{witness.path}/fixed", change), KubeInvalid)
    assert_alike(error, witness.refused("patch", "fixed", body=change))


@pytest.mark.usefixtures("crds")
async def test_410_is_gone(kube: KubeClient, witness: Witness) -> None:
    async def ours() -> None:
        path = f"{API}/namespaces/{witness.namespace}/runs"
        async for event in kube.watch(path, {"resourceVersion": "1", "timeoutSeconds": 5}):
            pytest.fail(f"{event}")

    error = await refused(ours(), KubeGone)
    runs = ("milepost.dev", "v1beta1", witness.namespace, "runs")
    with pytest.raises(client.ApiException) as caught:
        list(watch.Watch().stream(witness.objects.list_namespaced_custom_object, *runs, **since("1", 5)))
    assert (caught.value.status, caught.value.reason) == (error.status, f"{error.reason}: {error.message}")


@pytest.fixture
async def guest(kube: KubeClient, witness: Witness, kubeconfig: Path, tmp_path: Path) -> Path:
    """The kubeconfig of a ServiceAccount without any right."""
    accounts = f"/api/v1/namespaces/{witness.namespace}/serviceaccounts"
    await kube.create(accounts, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "guest"}})
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = (await kube.create(f"{accounts}/guest/token", asked))["status"]["token"]
    access = await asyncio.to_thread(lambda: json.loads(kubeconfig.read_text()))
    access["users"][0]["user"] = {"token": token}
    made = tmp_path / "guest.kubeconfig"
    await asyncio.to_thread(made.write_text, json.dumps(access))
    return made


async def test_a_token_has_its_rights_and_no_more(witness: Witness, guest: Path) -> None:
    async with KubeClient(from_kubeconfig(guest)) as ours:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        known = await ours.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
        assert known["status"]["userInfo"]["username"] == f"system:serviceaccount:{witness.namespace}:guest"
        error = await refused(ours.list(witness.path), KubeForbidden)
    theirs = Witness(guest, witness.namespace)
    with theirs.api:
        assert_alike(error, theirs.refused("list"))
