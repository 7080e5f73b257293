"""The store, by who uses it. Every method is one transaction; all times are the database's clock.

All raise UnavailableError when Postgres can't answer or commit (nothing was acknowledged then).
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from milepost.wire.pod import (
    Fence,
    HeartbeatAnswer,
    HeartbeatRequest,
    Record,
    RecordKind,
    RecordsRequest,
    SettleRequest,
    Start,
)
from milepost_operator.domain.errors import MilepostError
from milepost_operator.domain.runs import (
    AttemptView,
    Created,
    Ending,
    NewRun,
    OpenPod,
    PodOrder,
    PodSession,
    Projection,
    QueueIntake,
    RunView,
    TaskIntake,
)


class Intake(Protocol):
    """Manifests and triggers become rows."""

    async def apply_task(self, task: TaskIntake) -> int:
        """Mirror a Task; one older than the row is of changes nothing. Returns the version that new runs use."""

    async def remove_task(self, namespace: str, name: str, uid: str | None = None) -> None:
        """The Task is gone: queued runs are held, live attempts finish. With `uid`, only if it still is that Task."""

    async def apply_queue(self, queue: QueueIntake) -> None:
        """Mirror a Queue."""

    async def remove_queue(self, namespace: str, name: str, uid: str | None = None) -> None:
        """The Queue is gone: its queued runs are held (`default` has limits of its own). `uid`: as of Tasks."""

    async def create_run(self, run: NewRun) -> Created:
        """Insert a run once. ConflictError `idempotency-mismatch`: same key, another input."""

    async def cancel_run(self, run_id: UUID, who: str) -> None:
        """Ask for the end: at once when nothing runs, through `cancelling` else; terminal runs stay as they are."""

    async def forget_cr(self, namespace: str, name: str, cr_uid: str) -> None:
        """A Run CR is gone: cancels the live run that it was the intent of; a projection is written anew."""

    async def known_manifests(self, namespace: str | None) -> Sequence[tuple[str, str, str, str]]:
        """(plural, namespace, name, uid) of Tasks and Queues mirrored as present, for the sweep of absent ones."""

    async def known_intents(self, namespace: str | None) -> Sequence[tuple[str, str, str]]:
        """(namespace, CR name, CR uid) of live runs made with kubectl, for the sweep of absent CRs."""


class Launches(Protocol):
    """The operator's leader: pods rows become Jobs, and pods' ends become rows."""

    async def take_epoch(self, holder: str, template_hash: str = "") -> int:
        """Begin a new epoch; every launch of an older one is refused from now on. `template_hash`: of what its pods
        look like beside what their Tasks say; warm pods of another one take no more work.
        """

    async def take_wanted(self, epoch: int, limit: int) -> Sequence[PodOrder]:
        """Pods to launch now, marked `creating` by this epoch; what those that are there will take is left to them
        (domain.launches). DeposedError when the epoch is over.
        """

    async def launched(self, epoch: int, pod_id: str, job_uid: str) -> bool:
        """The Job exists (created or adopted). False: the row was closed meanwhile, delete the Job.

        DeposedError when a newer epoch has taken the row: the Job is its to adopt.
        """

    async def open_pods(self) -> Sequence[OpenPod]:
        """All rows that aren't closed, `closing` ones first."""

    async def note_pod(self, pod_id: str, reason: str, message: str) -> None:
        """Why a launched pod does not run yet (shown as the run's reason)."""

    async def pod_digest(self, pod_id: str, digest: str) -> None:
        """The image digest that the version's first pod reports."""

    async def pod_ended(
        self, epoch: int, pod_id: str, pod_uid: str | None, ending: Ending, *, unheard: bool = False
    ) -> bool:
        """The pod is gone, finished, or has to go: end its attempt by `ending` unless it was settled, and let the row
        close. False: nothing was ended, for the row is that of another pod by now, or, where this was decided of a pod
        `unheard` of, its sidecar has spoken meanwhile: decide anew.
        DeposedError when a newer epoch leads: what an older leader saw may be long over.
        """

    async def node_lost(self, pod_id: str, ending: Ending) -> bool:
        """The attempt that this pod had last ended so, if its lease lapsed; False: it did not, or that was told."""

    async def close_pod(self, pod_id: str) -> None:
        """No Job or pod of this row is left."""


class Projections(Protocol):
    """Rows become Run CRs."""

    async def due(self, limit: int, progress_seconds: float) -> Sequence[Projection]:
        """Runs whose CR is behind; mere progress only when the last write is `progress_seconds` old."""

    async def projected(
        self, run_id: UUID, rev: int, cr_uid: str | None, events_upto: int, shown: RunView | None = None
    ) -> None:
        """The CR shows `rev` and the Events up to a seq are out. `shown`: with which progress; else with the newest."""

    async def lost_crs(self, present: Sequence[str], before: datetime) -> int:
        """CRs (by uid) that a complete list no longer has: forget them. Live ones are projected anew (how many)."""


class PodStore(Protocol):
    """What sidecars do, fenced."""

    async def open_session(
        self, pod_id: str, namespace: str, pod_uid: str, pod_name: str, *, reusable: bool = False
    ) -> PodSession:
        """Bind the pod's uid to its row (compare-and-set). `reusable`: its sidecar asks for another attempt by itself.
        ForbiddenError, GoneError, NotFoundError.
        """

    async def start(self, sessions: Sequence[PodSession], *, wait: bool = True) -> Sequence[Start | MilepostError]:
        """Start the reserved attempts, or give them again to the same pods. Per pod: GoneError, ForbiddenError; not
        `wait`: BusyError when somebody has its run locked.
        """

    async def check_fence(self, session: PodSession, fence: Fence) -> None:
        """ForbiddenError for another pod's attempt, ConflictError `fenced`/`settled`."""

    def records(self, fence: Fence, after: int, *, newest: bool = False) -> AsyncIterator[Record]:
        """Stream the records with seq > after in commit order, without holding them all. `newest`: of a checkpoint
        only the newest version.
        """

    async def newest(self, fence: Fence, kind: RecordKind, key: str) -> Record | None:
        """The newest version of a checkpoint, or a step's record."""

    async def append(
        self, requests: Sequence[tuple[PodSession, RecordsRequest]]
    ) -> Sequence[list[int] | MilepostError]:
        """Commit many sidecars' records in one statement; per request its seqs or why not: ForbiddenError,
        ConflictError `fenced`, `settled`, `step-exists`, `unknown-base`, or RunLimitError.
        """

    async def beat(
        self,
        requests: Sequence[tuple[PodSession, HeartbeatRequest]],
    ) -> Sequence[HeartbeatAnswer | MilepostError]:
        """Renew leases."""

    async def settle(
        self, requests: Sequence[tuple[PodSession, SettleRequest]], *, wait: bool = True
    ) -> Sequence[str | MilepostError]:
        """Record the ends of attempts and what follows for their runs. Idempotent. Per request: the run's state, or
        ForbiddenError, ConflictError `fenced`, InvalidInputError; not `wait`: BusyError when somebody has it locked.
        """


class Duties(Protocol):
    """Periodic work, safe from any replica at any time."""

    async def pulse(self) -> None:
        """Say that heartbeats are acceptable now; a gap restarts the grace that leases have."""

    async def promote(self, limit: int) -> int:
        """Queue delayed and backed-off runs whose time has come, and held ones that lack nothing any more."""

    async def admit(self, limit: int) -> int:
        """Admit queued runs within their limits; returns how many."""

    async def reap(self, limit: int) -> int:
        """End attempts whose lease, timeout or grace is over, and runs past their deadline."""

    async def violations(self) -> dict[str, int]:
        """Invariant name to the number of rows that break it."""


class Reads(Protocol):
    async def get_run(self, namespace: str, run: str) -> RunView:
        """By name or id. NotFoundError."""

    async def get_attempts(self, run_id: UUID) -> Sequence[AttemptView]: ...

    async def ready(self) -> None:
        """Postgres answers and its schema is the one we know."""
