"""Open pods rows against what is seen of their Jobs and pods. Level-triggered: the same sight, the same actions."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

import structlog

from milepost_operator.domain.runs import Ending, OpenPod
from milepost_operator.domain.states import Reason
from milepost_operator.domain.warm import ENDED
from milepost_operator.manifests import names, raw
from milepost_operator.manifests.job import TASK_CONTAINER, repository
from milepost_operator.manifests.raw import Object
from milepost_operator.ports.kube import Jobs, Seen
from milepost_operator.ports.store import Launches
from milepost_operator.ports.warm import WarmLaunches
from milepost_operator.reconcile import evidence
from milepost_operator.reconcile.ended import Waiting, classify, node_lost, vanished
from milepost_operator.reconcile.loop import each
from milepost_operator.reconcile.room import Room, is_full

log = structlog.stdlib.get_logger(__name__)

SETTLING_SECONDS: Final = 5.0
"""A row this young may be ahead of the watches."""
UNHEARD_SECONDS: Final = 120.0
"""A sidecar that runs for so long without a session gets none any more (its network, its token)."""
AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Note:
    """Tell why the pod doesn't run yet."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class End:
    """End the pod's attempt. `unheard`: not if its sidecar, of which nothing was heard, has spoken meanwhile."""

    pod_uid: str | None
    ending: Ending
    unheard: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the Job, and with it its pod."""

    job_uid: str | None


@dataclass(frozen=True, slots=True)
class Digest:
    """Keep the digest that the image was resolved to."""

    digest: str


@dataclass(frozen=True, slots=True)
class Retire:
    """A pod that is not at work can't take work any more: no attempt ends by it."""

    why: str


@dataclass(frozen=True, slots=True)
class Lost:
    """What looked like a lapsed lease was the loss of the pod's node: the attempt ended so."""

    ending: Ending


class Close:
    """Nothing of the row is left in the cluster."""


class Confirm:
    """What the watches show (nothing, or a living pod that can't go on) must be read anew: they may be behind."""


Other = Note | Delete | Digest | Retire | Lost | Close | Confirm
Action = End | Other
WARM: Final = frozenset({"resting", "idle", "offered"})
"""States of rows whose pods have no attempt at work."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of one row. `fresh`: read from the API server just now rather than from the watches. `gone`: pods of
    it that are no more, as they were at their end.
    """

    job: Object | None
    pods: Sequence[Object]
    fresh: bool = False
    gone: Sequence[Object] = ()


def decide(row: OpenPod, sight: Sight, now: datetime, config_grace_seconds: float) -> list[Action]:
    """What to do about an open row."""
    if row.state == "closing":
        return [*_lost(row, sight, now), *_closing(row, sight)]
    if row.state in WARM:
        return _warm(row, sight)
    if row.state not in {"created", "bound"}:
        return []
    pod = _pod_of(row, sight.pods)
    if pod is None:
        return _without_pod(row, sight)
    found = classify(pod, now, config_grace_seconds)
    if isinstance(found, Ending):
        over = evidence.over(pod)
        if not over and not sight.fresh:
            return [Confirm()]
        if over:
            return [End(raw.uid(pod), found)]
        return [End(raw.uid(pod), found, unheard=row.state == "created"), Delete(_job_uid(sight))]
    if isinstance(found, Waiting):
        return [Note(found.reason.value, found.message)]
    if row.unheard_seconds >= UNHEARD_SECONDS and evidence.sidecar_runs(pod, now) >= UNHEARD_SECONDS:
        if not sight.fresh:
            return [Confirm()]
        return [End(raw.uid(pod), _unheard(pod), unheard=True), Delete(_job_uid(sight))]
    digest = resolved(pod)
    return [Digest(digest)] if digest else []


def _warm(row: OpenPod, sight: Sight) -> list[Action]:
    """What goes must not be given work, nor keep what it was offered; how it ended says nothing of any attempt."""
    pod = _pod_of(row, sight.pods)
    if pod is None:
        return [Retire("vanished")] if sight.fresh else [Confirm()]
    if evidence.over(pod):
        return [Retire(ENDED)]
    return [Retire("deleted")] if "deletionTimestamp" in raw.part(pod, "metadata") else []


def _unheard(pod: Object) -> Ending:
    message = f"the sidecar could not open a session with the api for {UNHEARD_SECONDS:.0f} s: its log says why"
    return Ending(
        Reason.SIDECAR_LOST,
        message,
        counted=False,
        infra=True,
        started=evidence.started(pod),
        evidence=evidence.facts(pod, None),
    )


def _lost(row: OpenPod, sight: Sight, now: datetime) -> list[Action]:
    """Leases lapse before Kubernetes gives a node up, so this is known only when the attempt has ended."""
    if row.ended_as != Reason.LEASE_EXPIRED:
        return []
    there, gone = _pod_of(row, sight.pods), _pod_of(row, sight.gone)
    if there is not None:
        ending = node_lost(there, now)
        return [] if ending is None else [Lost(ending)] if sight.fresh else [Confirm()]
    ending = None if gone is None else node_lost(gone, None)
    return [] if ending is None else [Lost(ending)]


def _closing(row: OpenPod, sight: Sight) -> list[Action]:
    """Rows of finished pods close at once, their Jobs stay for their TTL; what runs on after its grace is deleted."""
    alive = any(not evidence.over(pod) for pod in sight.pods)
    if sight.pods and not alive:
        return [Close()]
    if not sight.pods and sight.job is not None and evidence.job_exit(sight.job):
        return [Close()]
    if sight.job is None and not sight.pods:
        return [Close()] if sight.fresh else [Confirm()]
    if row.age_seconds < row.grace_seconds:
        return []
    going = sight.job is None or "deletionTimestamp" in raw.part(sight.job, "metadata")
    return [] if going else [Delete(_job_uid(sight))]


def doubted(row: OpenPod) -> bool:
    """Whether the row's pod fell silent, and is not known to have ended."""
    return row.state == "closing" and row.ended_as in {Reason.LEASE_EXPIRED, Reason.NODE_LOST}


def nodes_in_doubt(pods: Sequence[Object]) -> list[str]:
    """Nodes of those doubted pods that have not been seen to end. Kubernetes gives a lost node up a minute later, and
    until then places pods on it, since it looks empty.
    """
    return sorted({raw.text(pod, "spec", "nodeName") for pod in pods if not evidence.over(pod)} - {""})


def _without_pod(row: OpenPod, sight: Sight) -> list[Action]:
    known = evidence.job_exit(sight.job) if sight.job else None
    if sight.job is not None and known is None and row.pod_uid is None:
        return []  # the Job controller has not made it yet; the sweep asks why when it takes long
    if not sight.fresh:
        return [Confirm()] if known or row.age_seconds >= SETTLING_SECONDS else []
    ending = vanished(sight.job, _pod_of(row, sight.gone), bound=row.pod_uid is not None)
    return [End(row.pod_uid, ending), *([] if known or not sight.job else [Delete(_job_uid(sight))])]


def _pod_of(row: OpenPod, pods: Sequence[Object]) -> Object | None:
    """The row's pod: the one that it is bound to, else the only or the newest one."""
    if row.pod_uid:
        return next((pod for pod in pods if raw.uid(pod) == row.pod_uid), None)
    return max(pods, key=lambda pod: raw.text(pod, "metadata", "creationTimestamp"), default=None)


def _by_pod_id(pods: Sequence[Object]) -> Mapping[str, Sequence[Object]]:
    found: dict[str, list[Object]] = defaultdict(list)
    for pod in pods:
        found[raw.label(pod, names.POD_LABEL)].append(pod)
    return found


def _job_uid(sight: Sight) -> str | None:
    return raw.uid(sight.job) or None if sight.job else None


def resolved(pod: Object) -> str | None:
    """`repository@sha256:…` of the task's image when it came from its registry, None for what was put on the node."""
    containers = raw.parts(pod, "spec", "containers")
    image = next((raw.text(one, "image") for one in containers if one.get("name") == TASK_CONTAINER), "")
    shown = raw.text(evidence.task(pod), "imageID").removeprefix("docker-pullable://")
    if "@sha256:" not in shown or "@" in image:
        return None
    ours, theirs = repository(image), repository(shown)
    return shown if theirs in {ours, f"docker.io/{ours}", f"docker.io/library/{ours}"} else None


class PodLaunches(Launches, WarmLaunches, Protocol):
    """The store as decisions about pods need it."""


class Pods:
    """Carries the decisions out."""

    def __init__(
        self,
        store: PodLaunches,
        jobs: Jobs,
        seen: Seen,
        epoch: int,
        *,
        clock: Callable[[], datetime],
        config_grace_seconds: float,
        room: Room,
        on_ended: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._on_ended = on_ended
        self._store = store
        self._room = room
        self._jobs = jobs
        self._seen = seen
        self._epoch = epoch
        self._clock = clock
        self._grace = config_grace_seconds
        self._told: dict[str, set[tuple[UUID | None, Note | Digest]]] = defaultdict(set)

    async def turn(self) -> None:
        """All open rows, once. Nothing is concluded from watches that are not in step."""
        if not self._seen.synced():
            return
        sights = self.sights()
        rows = await self._store.open_pods()
        for pod_id in self._told.keys() - {row.pod_id for row in rows}:
            del self._told[pod_id]
        await each(
            rows, lambda row: self.settle(row, sights.get(row.pod_id, Sight(None, ()))), at_once=AT_ONCE, what="pod"
        )

    def sights(self) -> dict[str, Sight]:
        """What the watches show, by pod id. Taken before the rows are read: what is seen here had its row by then."""
        jobs = {names.pod_id_of(raw.name(job)): job for job in self._seen.jobs()}
        pods, gone = _by_pod_id(self._seen.pods()), _by_pod_id(self._seen.gone_pods())
        return {
            key: Sight(jobs.get(key), pods.get(key, ()), gone=gone.get(key, ())) for key in {*jobs, *pods, *gone} if key
        }

    async def settle(self, row: OpenPod, sight: Sight) -> None:
        """Decide about one row and act."""
        actions = decide(row, sight, self._clock(), self._grace)
        if any(isinstance(action, Confirm) for action in actions):
            fresh = Sight(
                await self._jobs.get_job(row.namespace, names.job_name(row.pod_id)),
                await self._jobs.pods_of(row.namespace, row.pod_id),
                fresh=True,
                gone=sight.gone,
            )
            actions = decide(row, fresh, self._clock(), self._grace)
        for action in actions:
            if isinstance(action, End):
                if not await self._end(row, action):
                    return  # it is not as it was: what else was decided of it is void
            else:
                await self._act(row, action)

    async def _end(self, row: OpenPod, end: End) -> bool:
        """False: nothing was ended."""
        reason, message = end.ending.reason, end.ending.message
        if not await self._store.pod_ended(self._epoch, row.pod_id, end.pod_uid, end.ending, unheard=end.unheard):
            return False
        log.info("pod_ended", pod=row.pod_id, run=str(row.run_id), reason=reason, message=message)
        self._on_ended(reason.value)
        return True

    async def _act(self, row: OpenPod, action: Other) -> None:
        match action:
            case Note() | Digest():
                await self._tell(row, action)
            case Lost(ending):
                if await self._store.node_lost(row.pod_id, ending):
                    log.info("node_lost", pod=row.pod_id, run=str(row.run_id), message=ending.message)
            case Retire(why):
                log.info("warm_pod_gone", pod=row.pod_id, state=row.state, why=why)
                await self._store.retire_pod(self._epoch, row.pod_id, why)
            case Delete(job_uid):
                await self._jobs.delete_job(row.namespace, names.job_name(row.pod_id), job_uid)
            case Close():
                await self._store.close_pod(row.pod_id)
            case Confirm():
                pass

    async def _tell(self, row: OpenPod, said: Note | Digest) -> None:
        """Each thing once, to each run: the rows keep it. Pods that only wait for work make room for one that finds no
        node and has a run.
        """
        full = isinstance(said, Note) and said.reason == Reason.UNSCHEDULABLE and is_full(said.message)
        if full and row.run_id is not None:
            await self._room.make(row.pod_id, None)
        this = (row.run_id if isinstance(said, Note) else None, said)
        if this in self._told[row.pod_id]:
            return
        if isinstance(said, Note):
            await self._store.note_pod(row.pod_id, said.reason, said.message)
            self._told[row.pod_id] = {one for one in self._told[row.pod_id] if isinstance(one[1], Digest)}
        else:
            await self._store.pod_digest(row.pod_id, said.digest)
        self._told[row.pod_id].add(this)
