"""Sweeps: rows against the cluster both ways, for whatever a watch, a handler or a leader missed."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from milepost_operator.domain.runs import Ending, OpenPod
from milepost_operator.domain.states import Reason
from milepost_operator.manifests import names, raw
from milepost_operator.manifests.raw import Object
from milepost_operator.ports.kube import Jobs, Objects, Plural, Seen
from milepost_operator.ports.store import Intake, Launches, Projections
from milepost_operator.reconcile import evidence
from milepost_operator.reconcile.launch import is_quota
from milepost_operator.reconcile.loop import each
from milepost_operator.reconcile.pods import Pods, Sight
from milepost_operator.reconcile.room import Room

log = structlog.stdlib.get_logger(__name__)

LATE_SECONDS: Final = 5.0
"""A pod that takes longer than this to appear, or to create its containers, has a reason to be asked for."""
ABSENT_SECONDS: Final = 30.0
CLOCK_MARGIN: Final = timedelta(seconds=60)
RECENT: Final = timedelta(seconds=60)
"""What was not told again for so long no longer holds: kubelet and Job controller repeat what they can't do."""
AT_ONCE: Final = 8
MANIFESTS: Final[tuple[Plural, ...]] = ("tasks", "queues")
_NO_POD: Final = frozenset({"FailedCreate"})
_POD_TROUBLE: Final = frozenset({"FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"})


class PodSweep:
    """Jobs without an open row, and rows whose pod does not come."""

    def __init__(
        self,
        store: Launches,
        jobs: Jobs,
        seen: Seen,
        pods: Pods,
        epoch: int,
        *,
        clock: Callable[[], datetime],
        room: Room,
        config_grace_seconds: float,
    ) -> None:
        self._clock = clock
        self._store = store
        self._room = room
        self._jobs = jobs
        self._seen = seen
        self._pods = pods
        self._epoch = epoch
        self._grace = config_grace_seconds

    async def turn(self) -> None:
        """Once over all Jobs and rows. The Jobs are looked at first: each of them had its row by then."""
        if not self._seen.synced():
            return
        jobs, sights = list(self._seen.jobs()), self._pods.sights()
        rows = {row.pod_id: row for row in await self._store.open_pods()}
        orphans = [job for job in jobs if self._is_orphan(job, rows, sights)]
        await each(orphans, self._delete, at_once=AT_ONCE, what="orphan")
        late = [row for row in rows.values() if row.state == "created" and row.age_seconds >= LATE_SECONDS]
        await each(late, lambda row: self._ask(row, sights.get(row.pod_id)), at_once=AT_ONCE, what="late pod")

    @staticmethod
    def _is_orphan(job: Object, rows: dict[str, OpenPod], sights: dict[str, Sight]) -> bool:
        """Still at work for a row that is closed, or never was. Finished ones are left to their TTL."""
        pod_id = names.pod_id_of(raw.name(job))
        if pod_id is None or pod_id in rows or "deletionTimestamp" in raw.part(job, "metadata"):
            return False
        pods = sights[pod_id].pods if pod_id in sights else ()
        ended = bool(pods) and all(evidence.over(pod) for pod in pods)
        return not ended and evidence.job_exit(job) is None

    async def _delete(self, job: Object) -> None:
        log.info("orphan_job_deleted", job=raw.name(job), namespace=raw.namespace(job))
        await self._jobs.delete_job(raw.namespace(job), raw.name(job), raw.uid(job))

    async def _ask(self, row: OpenPod, sight: Sight | None) -> None:
        """Ask the Events why a Job has no pod, or a pod no containers: nothing else says so."""
        if sight is None or sight.job is None:
            return
        if not sight.pods:
            message = await self._trouble(row.namespace, raw.uid(sight.job), _NO_POD)
            if message:
                await self._tell(row, Reason.POD_REFUSED, message, hopeless=not is_quota(message))
            if is_quota(message) and row.run_id is not None:
                await self._room.make(row.pod_id, row.namespace)
            return
        pod = sight.pods[0]
        if not _is_creating(pod):
            return
        message = await self._trouble(row.namespace, raw.uid(pod), _POD_TROUBLE)
        if message:
            await self._tell(row, Reason.CONFIG, message, hopeless="not found" in message)

    async def _trouble(self, namespace: str, uid: str, reasons: frozenset[str]) -> str:
        """Message of the newest Event about this object with one of these reasons; empty: none of late."""
        since = self._clock() - RECENT
        found = [
            event for event in await self._jobs.events_about(namespace, uid) if raw.text(event, "reason") in reasons
        ]
        recent = [(when, raw.text(event, "message")) for event in found if (when := _last(event)) and when >= since]
        return max(recent, default=(since, ""))[1]

    async def _tell(self, row: OpenPod, reason: Reason, message: str, *, hopeless: bool) -> None:
        message = names.clipped(message, 1000)
        if hopeless and row.age_seconds >= self._grace:
            ending = Ending(reason, message, counted=False, final=True, started=False)
            # others were asked about meanwhile: it may have begun
            await self._store.pod_ended(self._epoch, row.pod_id, row.pod_uid, ending, unheard=True)
            return
        await self._store.note_pod(row.pod_id, reason.value, message)


def _is_creating(pod: Object) -> bool:
    waits = [raw.text(one, "state", "waiting", "reason") for one in (evidence.task(pod), evidence.sidecar(pod))]
    return raw.text(pod, "status", "phase") == "Pending" and bool({"ContainerCreating", "PodInitializing"} & {*waits})


def _last(event: Object) -> datetime | None:
    """When it was last so, in whichever field its writer keeps that."""
    fields = (("series", "lastObservedTime"), ("lastTimestamp",), ("eventTime",), ("metadata", "creationTimestamp"))
    return max((when for field in fields if (when := raw.when(event, *field))), default=None)


class AbsentObjects:
    """Which of the objects that rows know are gone: two complete lists, 30 s apart, lack them.

    Nothing counts as deleted while its kind or its namespace is gone too: that is an uninstall, or the end of a tenant.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._missing: dict[tuple[str, ...], datetime] = {}

    def forget(self) -> None:
        """The kind is gone: whatever was missing is missing anew when it is back."""
        self._missing.clear()

    async def confirmed(self, absent: set[tuple[str, ...]], now: datetime) -> list[tuple[str, ...]]:
        """`absent`: (key, namespace, …) that one complete list lacked now. Returns those gone for good."""
        self._missing = {one: self._missing.get(one, now) for one in absent}
        gone = [one for one, since in self._missing.items() if now - since >= timedelta(seconds=ABSENT_SECONDS)]
        alive = {namespace: await self._objects.namespace_alive(namespace) for namespace in {one[1] for one in gone}}
        for one in gone:
            del self._missing[one]
        return [one for one in gone if alive[one[1]]]


class RunSweep:
    """Run CRs that are gone, though no one told: projections come back, live intents are cancelled."""

    def __init__(
        self,
        intake: Intake,
        projections: Projections,
        objects: Objects,
        namespaces: Sequence[str],
        *,
        clock: Callable[[], datetime],
    ) -> None:
        self._intake = intake
        self._projections = projections
        self._objects = objects
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._clock = clock
        self._absent = AbsentObjects(objects)

    async def turn(self) -> None:
        begun = self._clock()
        known: set[tuple[str, ...]] = set()
        for namespace in self._namespaces:
            intents = await self._intake.known_intents(namespace)
            known.update((uid, where, name) for where, name, uid in intents)
        if not await self._objects.crd_present("runs"):
            self._absent.forget()
            return
        present: set[str] = set()
        for namespace in self._namespaces:
            present.update(raw.uid(run) for run in await self._objects.list_objects("runs", namespace))
        await self._projections.lost_crs(sorted(present), begun - CLOCK_MARGIN)
        absent = {one for one in known if one[0] not in present}
        gone = await self._absent.confirmed(absent, begun)
        await each(gone, self._forget, at_once=AT_ONCE, what="absent run")

    async def _forget(self, intent: tuple[str, ...]) -> None:
        uid, namespace, name = intent
        log.info("run_object_gone", namespace=namespace, run=name)
        await self._intake.forget_cr(namespace, name, uid)


class ManifestSweep:
    """Tasks and Queues that were deleted while nobody watched."""

    def __init__(
        self, intake: Intake, objects: Objects, namespaces: Sequence[str], *, clock: Callable[[], datetime]
    ) -> None:
        self._intake = intake
        self._objects = objects
        self._namespaces: Sequence[str | None] = namespaces or (None,)
        self._clock = clock
        self._absent = AbsentObjects(objects)

    async def turn(self) -> None:
        begun = self._clock()
        known: set[tuple[str, ...]] = set()
        for namespace in self._namespaces:
            known.update(await self._intake.known_manifests(namespace))
        present: set[tuple[str, ...]] = set()
        for plural in MANIFESTS:
            if not await self._objects.crd_present(plural):
                self._absent.forget()
                return
            for namespace in self._namespaces:
                found = await self._objects.list_objects(plural, namespace)
                present.update((plural, raw.namespace(one), raw.name(one), raw.uid(one)) for one in found)
        gone = await self._absent.confirmed(known - present, begun)
        await each(gone, self._remove, at_once=AT_ONCE, what="absent manifest")

    async def _remove(self, manifest: tuple[str, ...]) -> None:
        plural, namespace, name, uid = manifest
        log.info("manifest_gone", kind=plural, namespace=namespace, name=name)
        if plural == "tasks":
            await self._intake.remove_task(namespace, name, uid)
        else:
            await self._intake.remove_queue(namespace, name, uid)
