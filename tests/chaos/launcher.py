"""The operator's leader in small: pods rows become simulated pods, and the ends of pods become rows.

Rows go through the production store. A new leader takes over without a word to the old one, which finds out by itself.
"""

import asyncio
import itertools

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import DeposedError, UnavailableError
from milepost_operator.domain.runs import Ending
from milepost_operator.domain.states import Reason
from tests.chaos.kube import pod_uid
from tests.chaos.nodes import Nodes

TURN_SECONDS = 0.2
LOST = Ending(Reason.POD_LOST, "the pod is gone", counted=False, infra=True)


class Launcher:
    """Leaders of growing epochs over the same nodes."""

    def __init__(self, store: PostgresStore, nodes: Nodes) -> None:
        self._store = store
        self._nodes = nodes
        self._jobs: set[str] = set()
        self._leaders: set[asyncio.Task[None]] = set()
        self._names = itertools.count(1)
        self.deposed = 0

    def take_over(self) -> None:
        """Let another replica lead."""
        self._leaders.add(asyncio.create_task(self._lead(f"leader-{next(self._names)}")))

    async def stop(self) -> None:
        for leader in self._leaders:
            leader.cancel()
        await asyncio.gather(*self._leaders, return_exceptions=True)

    async def _lead(self, name: str) -> None:
        epoch: int | None = None
        while True:
            try:
                if epoch is None:
                    epoch = await self._store.take_epoch(name)
                await self._launch(epoch)
                await self._sweep(epoch)
            except DeposedError:
                self.deposed += 1
                return
            except UnavailableError:
                await asyncio.sleep(TURN_SECONDS)
            await asyncio.sleep(TURN_SECONDS)

    async def _launch(self, epoch: int) -> None:
        if self._nodes.room <= 0:
            return
        for order in await self._store.take_wanted(epoch, self._nodes.room):
            if order.pod_id not in self._jobs:  # else its Job is there: adopted by its name
                self._jobs.add(order.pod_id)
                self._nodes.launch(order.pod_id)
            if not await self._store.launched(epoch, order.pod_id, f"job-{order.pod_id}"):
                self._nodes.delete(order.pod_id)

    async def _sweep(self, epoch: int) -> None:
        for pod in await self._store.open_pods():
            if pod.state == "closing":
                if pod.pod_id in self._nodes.gone or self._nodes.delete(pod.pod_id):
                    await self._store.close_pod(pod.pod_id)
            elif pod.pod_id in self._nodes.gone:
                await self._store.pod_ended(epoch, pod.pod_id, pod_uid(pod.pod_id), LOST)
