"""The network of tasks: what Tasks say of it, and the NetworkPolicies that make it so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from milepost_operator.ports.kube import Object


@dataclass(frozen=True, slots=True)
class TaskNetwork:
    """A Task that is there, or is gone and has pods that are not. `network`: its `spec.network`; None: it has none."""

    namespace: str
    task: str
    network: Mapping[str, object] | None


class NetworkReads(Protocol):
    """As of `ports.store`: UnavailableError when Postgres can't answer."""

    async def task_networks(self, namespace: str | None) -> Sequence[TaskNetwork]:
        """Of a namespace, or of all."""


class Policies(Protocol):
    """NetworkPolicies. Errors as of `ports.kube`; InvalidInputError when the API server finds one wrong."""

    async def list_policies(self, namespace: str | None) -> Sequence[Object]:
        """Those that carry our label, of a namespace or of all."""

    async def create_policy(self, policy: Object) -> None:
        """ConflictError `already-exists`; NotFoundError: the namespace is gone."""

    async def replace_policy(self, policy: Object) -> None:
        """All of it but its identity, whatever it was. NotFoundError."""

    async def delete_policy(self, namespace: str, name: str, uid: str) -> None:
        """It is no error when it is gone, or is another one than `uid`."""

    async def api_server_addresses(self) -> Sequence[str]:
        """Where pods reach the Kubernetes API server: the addresses of its Service, and those behind it."""
