"""What the leader does, for as long as it leads: intake, launches, pods' ends, projections, sweeps."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from milepost_operator.adapters.kube.client import KubeClient
from milepost_operator.adapters.kube.cluster import Cluster
from milepost_operator.adapters.kube.watches import Watches
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import DeposedError, UnavailableError
from milepost_operator.handlers.objects import watch_objects
from milepost_operator.manifests.job import PodSettings, template_hash
from milepost_operator.manifests.network import DNS, NetworkSettings
from milepost_operator.obs.operator import OperatorMetrics
from milepost_operator.reconcile.backlog import Backlog
from milepost_operator.reconcile.history import DELETES_PER_SECOND, HistoryLimits
from milepost_operator.reconcile.intake import ObjectIntake
from milepost_operator.reconcile.launch import Launcher
from milepost_operator.reconcile.loop import Loop
from milepost_operator.reconcile.network import TaskNetworks
from milepost_operator.reconcile.pods import Pods
from milepost_operator.reconcile.project import Bucket, Projector
from milepost_operator.reconcile.pulls import ImagePulls
from milepost_operator.reconcile.queues import QueueStatus
from milepost_operator.reconcile.room import Room
from milepost_operator.reconcile.schedules import WRITES_PER_SECOND, TaskScheduleStatus
from milepost_operator.reconcile.sweep import ManifestSweep, PodSweep, RunSweep
from milepost_operator.reconcile.task_findings import TaskFindingStatus
from milepost_operator.reconcile.task_notes import TaskNotes
from milepost_operator.reconcile.warm_status import TaskWarmStatus
from milepost_operator.settings import Settings

log = structlog.stdlib.get_logger(__name__)


def now() -> datetime:
    return datetime.now(UTC)


def pod_settings(settings: Settings) -> PodSettings:
    """What the installation says of every pod. OSError when the CA's file can't be read."""
    return PodSettings(
        runner_image=settings.runner_image,
        sidecar_image=settings.sidecar_image or settings.runner_image,
        api_url=settings.api_url,
        ca=settings.ca_file.read_text() if settings.ca_file else "",
        cluster=settings.cluster,
        image_pull_policy=settings.image_pull_policy,
        requests=settings.task_requests,
        limits=settings.task_limits,
    )


def network_settings(settings: Settings) -> NetworkSettings | None:
    """What the installation says of the network of tasks; None: it leaves it alone."""
    given = settings.task_network
    if given is None:
        return None
    return NetworkSettings(
        api_namespace=settings.operator_namespace,
        api_labels=given.api_labels,
        api_port=settings.listen_port,
        closed=given.closed,
        private=given.private,
        dns=given.dns or DNS,
        open_to=given.open_to,
        api_server=given.api_server or None,
    )


class Leader:
    """Made once; `lead` may run several times, each with an epoch of its own."""

    def __init__(
        self,
        settings: Settings,
        store: PostgresStore,
        kube: KubeClient,
        *,
        watches: Watches,
        identity: str,
        metrics: OperatorMetrics,
        on_spawn: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._cluster = Cluster(kube)
        self._watches = watches
        self._identity = identity
        self._metrics = metrics
        self._on_spawn = on_spawn
        self._backlog: Backlog | None = None
        self._by_name: dict[str, tuple[Loop, ...]] = {}
        self.loops: tuple[Loop, ...] = ()

    def seen(self) -> None:
        """A watch brought something."""
        self._wake("pods")

    def backlog_depth(self) -> int:
        return self._backlog.depth() if self._backlog else 0

    async def lead(self) -> None:
        """Lead until cancelled. DeposedError when another one leads."""
        epoch = await self._store.take_epoch(self._identity, template_hash(pod_settings(self._settings)))
        self._metrics.epoch.set(epoch)
        log.info("epoch_taken", epoch=epoch)
        networks = TaskNetworks(
            self._store,
            self._cluster,
            network_settings(self._settings),
            self._settings.watched_namespaces,
            on_written=lambda deed: self._metrics.policies.labels(deed).inc(),
        )
        intake = ObjectIntake(
            self._store, self._cluster, networks, clock=now, max_input_bytes=self._settings.max_kubectl_input_bytes
        )
        self._backlog = Backlog({"tasks": intake.on_task, "queues": intake.on_queue, "runs": intake.on_run})
        self._prepare(epoch, intake, networks)
        try:
            async with asyncio.TaskGroup() as group:
                for loop in self.loops:
                    group.create_task(loop.run(), name=loop.name)
                group.create_task(self._listen(), name="wakeups")
                group.create_task(self._backlog.run(), name="backlog")
                group.create_task(
                    watch_objects(self._backlog, self._settings.watched_namespaces, self._on_spawn), name="kopf"
                )
        except* (DeposedError, UnavailableError) as ended:
            raise DeposedError(f"leading ended: {ended.exceptions[0]}") from ended
        finally:
            self.loops, self._by_name, self._backlog = (), {}, None
            self._metrics.forget()

    def _prepare(self, epoch: int, intake: ObjectIntake, networks: TaskNetworks) -> None:
        settings, store, cluster, metrics = self._settings, self._store, self._cluster, self._metrics
        grace, bucket = settings.config_grace_seconds, Bucket()
        room = Room(store, epoch)
        pods = Pods(
            store,
            cluster,
            self._watches,
            epoch,
            clock=now,
            config_grace_seconds=grace,
            room=room,
            on_ended=lambda reason: metrics.ended.labels(reason).inc(),
        )
        launcher = Launcher(
            store,
            cluster,
            pods,
            pod_settings(settings),
            epoch,
            room=room,
            networks=networks,
            config_grace_seconds=grace,
            on_launched=metrics.launched.inc,
        )
        pod_sweep = PodSweep(
            store, cluster, self._watches, pods, epoch, clock=now, room=room, config_grace_seconds=grace
        )
        run_sweep = RunSweep(store, store, cluster, settings.watched_namespaces, clock=now)
        manifest_sweep = ManifestSweep(store, cluster, settings.watched_namespaces, clock=now)
        projector = Projector(store, cluster, bucket, progress_seconds=settings.progress_seconds)
        queues = QueueStatus(store, cluster, bucket, clock=now, on_views=metrics.show_queues)
        schedules = TaskScheduleStatus(store, cluster, Bucket(WRITES_PER_SECOND, WRITES_PER_SECOND))
        warm = TaskWarmStatus(
            store, cluster, Bucket(WRITES_PER_SECOND, WRITES_PER_SECOND), clock=now, on_states=metrics.show_pods
        )
        findings = TaskFindingStatus(
            store, cluster, Bucket(WRITES_PER_SECOND, WRITES_PER_SECOND), clock=now, on_findings=metrics.show_findings
        )
        notes = TaskNotes(store, cluster, Bucket(WRITES_PER_SECOND, WRITES_PER_SECOND), tasks=intake.tasks, clock=now)
        pulls = ImagePulls(
            store,
            cluster,
            self._watches,
            pod_settings(settings),
            epoch,
            networks=networks,
            nodes=settings.prepull_max_nodes if settings.prepull else 0,
        )
        history = HistoryLimits(store, cluster, Bucket(DELETES_PER_SECOND, DELETES_PER_SECOND))
        by_pods = Loop("pods", pods.turn, interval=1.0, spacing=0.05)
        by_launch = Loop("launch", launcher.turn, interval=0.5, spacing=0.02)
        by_project = Loop("project", projector.turn, interval=1.0, spacing=0.1)
        self.loops = (
            by_pods,
            by_launch,
            by_project,
            Loop("queue-status", queues.turn, interval=5.0),
            Loop("schedule-status", schedules.turn, interval=5.0),
            Loop("warm-status", warm.turn, interval=5.0),
            Loop("networks", networks.turn, interval=15.0),
            Loop("finding-status", findings.turn, interval=5.0),
            Loop("task-notes", notes.turn, interval=5.0),
            Loop("image-pulls", pulls.turn, interval=2.0),
            Loop("late-pods", pod_sweep.turn, interval=5.0),
            Loop("refused-runs", intake.again, interval=2.0),
            Loop("absent-runs", run_sweep.turn, interval=30.0),
            Loop("history", history.turn, interval=10.0),
            Loop("absent-manifests", manifest_sweep.turn, interval=30.0),
        )
        self._by_name = {"pods": (by_pods,), "launch": (by_launch, by_pods), "project": (by_project,)}

    def _wake(self, name: str) -> None:
        for loop in self._by_name.get(name, ()):
            loop.wake()

    async def _listen(self) -> None:
        """Wake-ups are a hint: while none can be heard, the loops' own intervals do."""
        while True:
            try:
                async for name in self._store.wakeups({"launch", "project"}):
                    self._wake(name)
            except UnavailableError as error:
                log.warning("wakeups_unavailable", error=str(error))
            await asyncio.sleep(1.0)
