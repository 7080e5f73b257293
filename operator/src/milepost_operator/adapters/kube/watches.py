"""Our Jobs and pods in all watched namespaces, as the reconcilers see them (port `Seen`)."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from milepost_operator.adapters.kube.client import KubeClient
from milepost_operator.adapters.kube.informer import Informer
from milepost_operator.manifests.names import SELECTOR

GONE_SECONDS: Final = 60.0
"""What ended a pod is told by how it was as it was deleted, and nowhere after: the next turn is rarely so late."""


class Watches:
    """`namespaces` empty: all of them, by one watch a kind."""

    def __init__(self, kube: KubeClient, namespaces: Sequence[str], on_change: Callable[[], None]) -> None:
        scopes = [f"/namespaces/{namespace}" for namespace in namespaces] or [""]
        self._jobs = [Informer(kube, f"/apis/batch/v1{scope}/jobs", SELECTOR, on_change) for scope in scopes]
        self._pods = [
            Informer(kube, f"/api/v1{scope}/pods", SELECTOR, on_change, remember=GONE_SECONDS) for scope in scopes
        ]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for informer in (*self._jobs, *self._pods):
                group.create_task(informer.run())

    def synced(self) -> bool:
        return all(informer.synced() for informer in (*self._jobs, *self._pods))

    def age(self) -> float:
        """Seconds since the quietest watch gave a sign of life."""
        return max(informer.age() for informer in (*self._jobs, *self._pods))

    def jobs(self) -> Sequence[dict[str, Any]]:
        return [job for informer in self._jobs for job in informer.objects()]

    def pods(self) -> Sequence[dict[str, Any]]:
        return [pod for informer in self._pods for pod in informer.objects()]

    def gone_pods(self) -> Sequence[dict[str, Any]]:
        return [pod for informer in self._pods for pod in informer.gone()]
