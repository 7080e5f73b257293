"""The cluster, as reconcile needs it: raw objects in, raw objects out.

Every method may raise UnavailableError (no answer now; the same call may succeed later) and ForbiddenError (RBAC, an
admission policy or a quota says no; its message says which).
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

Object = Mapping[str, object]
Plural = Literal["tasks", "queues", "runs"]


class Jobs(Protocol):
    """Jobs and pods, straight from the API server."""

    async def create_job(self, job: Object) -> Object:
        """ConflictError `already-exists`; InvalidInputError when the API server finds it wrong; NotFoundError:
        the namespace.
        """

    async def get_job(self, namespace: str, name: str) -> Object | None: ...

    async def delete_job(self, namespace: str, name: str, uid: str | None = None) -> None:
        """Delete it and, in the background, its pod. It is no error when it is gone, or is another one than `uid`."""

    async def pods_of(self, namespace: str, pod_id: str) -> Sequence[Object]:
        """The pods that carry this pod id, read anew."""

    async def events_about(self, namespace: str, uid: str) -> Sequence[Object]:
        """Core v1 Events whose object has this uid."""


class Seen(Protocol):
    """What the watches have delivered: quick, and perhaps a moment behind."""

    def synced(self) -> bool:
        """Complete lists have been taken, and the watches are alive."""

    def jobs(self) -> Sequence[Object]: ...

    def pods(self) -> Sequence[Object]: ...

    def gone_pods(self) -> Sequence[Object]:
        """Those that were deleted within the last minute, each as it was at its end."""


class Objects(Protocol):
    """Custom resources and Events."""

    async def create_run(self, body: Object) -> Object:
        """ConflictError `already-exists`; NotFoundError: the namespace is gone."""

    async def get_object(self, plural: Plural, namespace: str, name: str) -> Object | None: ...

    async def patch_object(self, plural: Plural, namespace: str, name: str, patch: Object) -> Object:
        """Merge patch of everything but status. NotFoundError; ConflictError when it names another uid."""

    async def patch_status(self, plural: Plural, namespace: str, name: str, patch: Object) -> Object:
        """Merge patch of status. NotFoundError; ConflictError when it names another uid."""

    async def delete_object(self, plural: Plural, namespace: str, name: str, uid: str) -> None:
        """It is no error when it is gone, or is another one than `uid`."""

    async def create_event(self, event: Object) -> None:
        """An Event of the same name that is there already counts as written."""

    async def list_objects(self, plural: Plural, namespace: str | None) -> Sequence[Object]:
        """A complete list (all pages of one consistent read), metadata alone."""

    async def crd_present(self, plural: Plural) -> bool:
        """The kind is served and is not being deleted."""

    async def namespace_alive(self, namespace: str) -> bool:
        """The namespace exists and is not being deleted."""
