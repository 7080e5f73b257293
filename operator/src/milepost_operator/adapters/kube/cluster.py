"""The ports `Jobs` and `Objects` on the Kubernetes API: paths, and errors in our own words."""

from collections.abc import Iterator, Sequence
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
)
from milepost_operator.crds.common import API_VERSION, GROUP
from milepost_operator.domain.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from milepost_operator.manifests import names
from milepost_operator.ports.kube import Object, Plural

PAGE: Final = 500
_RELISTS: Final = 3


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
    """Both ports over one client."""

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
                return await self._complete(_custom(plural, namespace))
            except KubeGone:
                continue  # the list's revision was compacted between two pages
        raise UnavailableError(f"no complete list of {plural} within {_RELISTS} tries")

    async def crd_present(self, plural: Plural) -> bool:
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{GROUP}"
        return _stays(await self._found(path))

    async def namespace_alive(self, namespace: str) -> bool:
        return _stays(await self._found(f"/api/v1/namespaces/{quote(namespace)}"))

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

    async def _complete(self, path: str) -> Sequence[Object]:
        """All pages of one revision. Metadata alone is kept."""
        found: list[Object] = []
        params: dict[str, str | int] = {"limit": PAGE}
        while True:
            with translated():
                page = await self._kube.list(path, params)
            found += [{"metadata": item["metadata"]} for item in _items(page)]
            token = page.get("metadata", {}).get("continue")
            if not token:
                return found
            params["continue"] = token


def _jobs(namespace: str) -> str:
    return f"/apis/batch/v1/namespaces/{quote(namespace)}/jobs"


def _custom(plural: str, namespace: str | None) -> str:
    scope = f"/namespaces/{quote(namespace)}" if namespace else ""
    return f"/apis/{API_VERSION}{scope}/{plural}"


def _items(page: dict[str, Any]) -> list[dict[str, Any]]:
    return page.get("items") or []


def _stays(found: dict[str, Any] | None) -> bool:
    return found is not None and "deletionTimestamp" not in found["metadata"]
