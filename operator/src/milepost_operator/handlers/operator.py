"""The operator process: every replica watches Jobs and pods, one leads."""

import asyncio
import secrets
import signal
from collections.abc import Mapping
from typing import Final

import structlog

from milepost_operator.adapters.kube.client import KubeClient
from milepost_operator.adapters.kube.lease import Lease
from milepost_operator.adapters.kube.watches import Watches
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.handlers.leader import Leader
from milepost_operator.obs.health import serve_health
from milepost_operator.obs.operator import OperatorMetrics
from milepost_operator.settings import Settings

log = structlog.stdlib.get_logger(__name__)

STALE_SECONDS: Final = 90.0


async def run_operator(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. What can't be waited out ends the process, for its pod to be restarted."""
    stop = asyncio.Event()
    metrics = OperatorMetrics()
    identity = f"{settings.pod_name}-{secrets.token_hex(4)}"
    async with KubeClient() as kube, PostgresStore.open_when_up(settings) as store:
        leader: Leader | None = None
        watches = Watches(kube, settings.watched_namespaces, lambda: leader.seen() if leader else None)
        lease = Lease(kube, settings.operator_namespace, settings.lease_name, identity)
        leader = Leader(
            settings, store, kube, watches=watches, identity=identity, metrics=metrics, on_spawn=lambda: _obey(stop)
        )
        process = Operator(leader, lease, watches, metrics)
        async with serve_health(
            settings.metrics_port, healthy=process.stale, ready=process.not_ready, metrics=process.exposition
        ):
            _obey(stop)
            await process.run(stop)


class Operator:
    """The parts that run in every replica."""

    def __init__(self, leader: Leader, lease: Lease, watches: Watches, metrics: OperatorMetrics) -> None:
        self._leader = leader
        self._lease = lease
        self._watches = watches
        self._metrics = metrics

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, or until a part fails."""
        parts = {
            asyncio.create_task(self._watches.run(), name="watches"),
            asyncio.create_task(self._lease.run(self._leader.lead), name="lease"),
        }
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({*parts, stopped}, return_when=asyncio.FIRST_COMPLETED)
            for part in done - {stopped}:
                part.result()
        finally:
            for task in (*parts, stopped):
                task.cancel()
            await asyncio.gather(*parts, stopped, return_exceptions=True)

    def stale(self) -> Mapping[str, str]:
        """Loops that do not turn: a restart would help."""
        ages = {loop.name: loop.age() for loop in self._leader.loops} if self._lease.leading else {}
        ages["lease"] = self._lease.age()
        return {name: f"{age:.0f} s since its last turn" for name, age in ages.items() if age > STALE_SECONDS}

    def not_ready(self) -> Mapping[str, str]:
        """Ready to lead, whether it leads or not."""
        return {} if self._watches.synced() else {"watches": "no complete list of Jobs and pods yet, or a dead watch"}

    def exposition(self) -> bytes:
        self._metrics.leader.set(self._lease.leading)
        self._metrics.watch_age.set(self._watches.age())
        self._metrics.backlog.set(self._leader.backlog_depth())
        for loop in self._leader.loops:
            self._metrics.loop_age.labels(loop.name).set(loop.age())
            self._metrics.loop_failures.labels(loop.name).set(loop.failures)
        return self._metrics.exposition()


def _obey(stop: asyncio.Event) -> None:
    """Signals end this process in order; kopf takes them for itself when it starts, so they are taken back then."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
