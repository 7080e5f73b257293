"""The ports `Jobs`, `Objects` and `Policies` on the Kubernetes API: paths, and errors in our own words."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

from milepost_operator.adapters.kube.client import (
    KubeClient,
    KubeConflict,
    KubeForbidden,
    KubeGone,
    KubeInvalid,
    KubeNotFound,
    Params,
)
from milepost_operator.crds.common import API_VERSION, GROUP
from milepost_operator.domain.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from milepost_operator.manifests import names, raw
from milepost_operator.ports.kube import Object, Plural

PAGE: Final = 500
_RELISTS: Final = 3
_ALL: Final[Params] = {}


@contextmanager
def translated() -> Iterator[None]:
    """KubeUnavailable is an UnavailableError already; the others get their name in the domain."""
    try:
        yield
    except KubeNotFound as error:
        raise NotFoundError(str(error)) from error
    except KubeConflict as error:
        code = "already-exists" if error.reason == "AlreadyExists" else "conflict"
        raise ConflictError(code, str(error)) from error
    except KubeForbidden as error:
        raise ForbiddenError(str(error)) from error
    except KubeInvalid as error:
        raise InvalidInputError("invalid", str(error)) from error


class Cluster:
    """All of them over one client."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube

    async def create_job(self, job: Object) -> Object:
        with translated():
            return await self._kube.create(_jobs(job["metadata"]["namespace"]), job)  # type: ignore[index]

    async def get_job(self, namespace: str, name: str) -> Object | None:
        return await self._found(f"{_jobs(namespace)}/{quote(name)}")

    async def delete_job(self, namespace: str, name: str, uid: str | None = None) -> None:
        await self._delete(f"{_jobs(namespace)}/{quote(name)}", uid)

    async def pods_of(self, namespace: str, pod_id: str) -> Sequence[Object]:
        params: dict[str, str | int] = {"labelSelector": f"{names.SELECTOR},{names.POD_LABEL}={pod_id}"}
        with translated():
            return _items(await self._kube.list(f"/api/v1/namespaces/{quote(namespace)}/pods", params))

    async def events_about(self, namespace: str, uid: str) -> Sequence[Object]:
        params: dict[str, str | int] = {"fieldSelector": f"involvedObject.uid={uid}", "limit": 50}
        with translated():
            return _items(await self._kube.list(f"/api/v1/namespaces/{quote(namespace)}/events", params))

    async def create_run(self, body: Object) -> Object:
        with translated():
            return await self._kube.create(_custom("runs", body["metadata"]["namespace"]), body)  # type: ignore[index]

    async def get_object(self, plural: Plural, namespace: str, name: str) -> Object | None:
        return await self._found(f"{_custom(plural, namespace)}/{quote(name)}")

    async def patch_object(self, plural: Plural, namespace: str, name: str, patch: Object) -> Object:
        with translated():
            return await self._kube.patch(f"{_custom(plural, namespace)}/{quote(name)}", patch)

    async def patch_status(self, plural: Plural, namespace: str, name: str, patch: Object) -> Object:
        with translated():
            return await self._kube.patch(f"{_custom(plural, namespace)}/{quote(name)}/status", patch)

    async def delete_object(self, plural: Plural, namespace: str, name: str, uid: str) -> None:
        await self._delete(f"{_custom(plural, namespace)}/{quote(name)}", uid)

    async def create_event(self, event: Object) -> None:
        namespace: str = event["metadata"]["namespace"]  # type: ignore[index]
        try:
            with translated():
                await self._kube.create(f"/api/v1/namespaces/{quote(namespace)}/events", event)
        except ConflictError:
            return  # told before

    async def list_objects(self, plural: Plural, namespace: str | None) -> Sequence[Object]:
        for _ in range(_RELISTS):
            try:
                with translated():
                    return [{"metadata": item["metadata"]} async for item in self._pages(_custom(plural, namespace))]
            except KubeGone:
                continue  # the list's revision was compacted between two pages
        raise UnavailableError(f"no complete list of {plural} within {_RELISTS} tries")

    async def crd_present(self, plural: Plural) -> bool:
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{GROUP}"
        return _stays(await self._found(path))

    async def namespace_alive(self, namespace: str) -> bool:
        return _stays(await self._found(f"/api/v1/namespaces/{quote(namespace)}"))

    async def list_policies(self, namespace: str | None) -> Sequence[Object]:
        with translated():
            return [one async for one in self._pages(_policies(namespace), {"labelSelector": names.SELECTOR})]

    async def create_policy(self, policy: Object) -> None:
        with translated():
            await self._kube.create(_policies(raw.namespace(policy)), policy)

    async def replace_policy(self, policy: Object) -> None:
        with translated():
            await self._kube.replace(f"{_policies(raw.namespace(policy))}/{quote(raw.name(policy))}", policy)

    async def delete_policy(self, namespace: str, name: str, uid: str) -> None:
        await self._delete(f"{_policies(namespace)}/{quote(name)}", uid)

    async def api_server_addresses(self) -> Sequence[str]:
        with translated():
            service = await self._kube.get("/api/v1/namespaces/default/services/kubernetes")
            behind = await self._kube.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
        own = service["spec"].get("clusterIPs") or []
        return [*own, *(address for one in behind.get("endpoints") or () for address in one["addresses"])]

    async def _delete(self, path: str, uid: str | None) -> None:
        options: dict[str, Any] = {"propagationPolicy": "Background"}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self._kube.delete(path, options)
        except (KubeNotFound, KubeConflict):
            return  # gone, or another one of that name
        except KubeForbidden as error:
            raise ForbiddenError(str(error)) from error

    async def _found(self, path: str) -> dict[str, Any] | None:
        try:
            with translated():
                return await self._kube.get(path)
        except NotFoundError:
            return None

    async def _pages(self, path: str, selection: Params = _ALL) -> AsyncIterator[dict[str, Any]]:
        """All items of one revision, page by page."""
        params: dict[str, str | int] = {**selection, "limit": PAGE}
        while True:
            page = await self._kube.list(path, params)
            for item in _items(page):
                yield item
            token = page.get("metadata", {}).get("continue")
            if not token:
                return
            params["continue"] = token


def _jobs(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{quote(namespace)}/jobs"


def _policies(namespace: str | None) -> str:
    scope = f"/namespaces/{quote(namespace)}" if namespace else ""
    return f"/apis/networking.k8s.io/v1{scope}/networkpolicies"


def _custom(plural: str, namespace: str | None) -> str:
    scope = f"/namespaces/{quote(namespace)}" if namespace else ""
    return f"/apis/{API_VERSION}{scope}/{plural}"


def _items(page: dict[str, Any]) -> list[dict[str, Any]]:
    return page.get("items") or []


def _stays(found: dict[str, Any] | None) -> bool:
    return found is not None and "deletionTimestamp" not in found["metadata"]
