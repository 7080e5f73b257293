"""Records that cross the ports: what is known of tasks, runs and pods. Plain data; JSON of users stays JSON text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, TypeAlias
from uuid import UUID

from milepost.wire.pod import OnChange
from milepost_operator.domain.breaker import Policy
from milepost_operator.domain.states import Reason, RunState

IdempotencyScope: TypeAlias = Literal["window", "active"]
"""How long a key is its run's: for a time whatever becomes of the run, or while the run has not ended."""
DEFAULT_QUEUE: Final = "default"
"""The queue of Tasks that name none; it needs no Queue object."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Budget and backoff of a run: delay before attempt n+1 is min·factorⁿ⁻¹ seconds, at most max, with full jitter.

    `oom_factor`: an attempt that runs out of memory is followed by one with so many times as much, up to
    `oom_max_bytes`; None: with as much.
    """

    max_attempts: int = 3
    factor: float = 2.0
    min_seconds: float = 1.0
    max_seconds: float = 60.0
    randomize: bool = True
    oom_factor: float | None = None
    oom_max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: one attempt's tenure; the whole run less suspension."""

    attempt_seconds: int = 3600
    run_seconds: int = 86400


@dataclass(frozen=True, slots=True)
class Rate:
    """`limit` of cost in any window of `period_seconds`; `bucket`: at that rate, with up to `burst` saved up."""

    limit: int
    period_seconds: int
    algorithm: Literal["window", "bucket"] = "window"
    burst: int | None = None


@dataclass(frozen=True, slots=True)
class Semaphore:
    """A limit shared by the tasks of a namespace that name it; a run of this task holds `units` of `limit`."""

    name: str
    limit: int
    units: int = 1


@dataclass(frozen=True, slots=True)
class TaskIntake:
    """A Task as it is applied. `shape` is all that shapes a pod (JSON object): equal shapes are one version.

    `retention`, `record_limits`, `warm`: what it says of them, by the names of crds.task.Retention, RecordLimits and
    Warm; for the rest the settings count. `network`: its `spec.network`, None where it has none. `on_change`: what
    becomes of a run whose code does not fit its records any more. `versioning`: whether a run stays on the version it
    began with, or takes the newest for each attempt. Where `restart` is not what it was, pods of before take no more
    work. `prepull`: the image of a new version is pulled ahead (None: as the installation says). Schemas are JSON text,
    checked.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    shape: Mapping[str, object]
    queue: str
    retry: Retry
    timeouts: Timeouts
    concurrency: int | None = None
    semaphores: Sequence[Semaphore] = ()
    retention: Mapping[str, int] = field(default_factory=dict)
    record_limits: Mapping[str, int] = field(default_factory=dict)
    on_change: OnChange = "fail"
    versioning: Literal["pinned", "latest"] = "pinned"
    warm: Mapping[str, int | str] = field(default_factory=dict)
    network: Mapping[str, object] | None = None
    restart: str | None = None
    prepull: bool | None = None
    input_schema: str | None = None
    output_schema: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a run's stream. `value`: JSON text; `attempt`: the one that told it."""

    position: int
    attempt: int
    value: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class QueueIntake:
    """None: no such limit. `key_…`: of each concurrency key. `pause_on`: what pauses it, by domain.findings.Kind."""

    namespace: str
    name: str
    uid: str
    generation: int
    concurrency: int | None
    key_concurrency: int | None = None
    rate: Rate | None = None
    key_rate: Rate | None = None
    max_depth: int | None = None
    paused: bool = False
    breaker: Policy | None = None
    pause_on: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Debounce:
    """One run for many calls: each call puts it off by `seconds`, by `max_seconds` in all. `latest`: the newest input
    wins, else the first.
    """

    key: str
    seconds: float
    max_seconds: float
    latest: bool = True


@dataclass(frozen=True, slots=True)
class Singleton:
    """At most one run of the task that has not ended. `reject`: another call is an error, else it gets that run."""

    key: str
    reject: bool = False


@dataclass(frozen=True, slots=True)
class Throttle:
    """At most `limit` calls in any `period_seconds`; the rest are refused and leave no trace."""

    key: str
    limit: int
    period_seconds: float


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to insert. `intent_uid`: uid of the Run CR it was made with (kubectl), which makes intake idempotent.

    `name`: the CR's name, or None for a generated one. `input`: JSON text, already checked; `digest`: its input_hash,
    where the caller has it. `adopt_run_id`: the CR names a run it already had (annotation): adopted when it is of this
    namespace and task. `idempotency_seconds`: None for the installation's own; no meaning with the scope `active`.
    `at` wins over `delay_seconds`; neither lets a run wait in the past. `ttl_seconds` count from when it is due,
    `deadline_seconds` from the trigger.
    """

    namespace: str
    task: str
    input: str
    name: str | None = None
    intent_uid: str | None = None
    adopt_run_id: UUID | None = None
    idempotency_key: str | None = None
    tags: Sequence[str] = ()
    origin: str = "api"
    digest: bytes | None = None
    idempotency_scope: IdempotencyScope = "window"
    idempotency_seconds: int | None = None
    delay_seconds: float = 0.0
    at: datetime | None = None
    ttl_seconds: float | None = None
    deadline_seconds: float | None = None
    priority: int = 0
    concurrency_key: str = ""
    cost: int = 1
    debounce: Debounce | None = None
    singleton: Singleton | None = None
    throttle: Throttle | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """`duplicate`: a key, or the CR, already had this run; nothing was inserted. `ready_at`: when it is due."""

    run_id: UUID
    name: str
    state: RunState
    duplicate: bool
    ready_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PodOrder:
    """A pod to launch: its row is there, its Job `mp-<pod_id>` is not, as far as the row knows.

    `network`: what its Task says of it, now. `memory_class`: bytes of memory that the task has, where that is more than
    its version says. `ahead`: no run waits for it.
    """

    pod_id: str
    namespace: str
    task: str
    version: int
    template_hash: str
    shape: Mapping[str, object]
    image_digest: str | None
    network: Mapping[str, object] | None = None
    memory_class: int = 0
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class OpenPod:
    """A pods row that is not closed. `state`: ahead, wanted, creating, created, bound, resting, idle, offered, closing.

    `unheard_seconds`: how long its sidecar could have opened a session and has not; our own outages don't count.
    `ended_as`: the reason of the last end of an attempt in it.
    """

    pod_id: str
    namespace: str
    state: str
    job_uid: str | None
    pod_uid: str | None
    run_id: UUID | None
    attempt: int | None
    age_seconds: float
    grace_seconds: int
    unheard_seconds: float = 0.0
    ended_as: str | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended, as decided by rule (ARCHITECTURE, "How an attempt ended").

    `counted`: it spends one of `max_attempts`. `infra`: it spends the infrastructure budget instead. `final`: no
    further attempt (fatal, config, cancelled). `started`: user code may have run. `hold`: somebody is to decide.
    """

    reason: Reason
    message: str
    counted: bool = True
    infra: bool = False
    final: bool = False
    started: bool = True
    error: Mapping[str, object] | None = None
    evidence: Mapping[str, object] = field(default_factory=dict)
    retry_after_seconds: float | None = None
    hold: bool = False


@dataclass(frozen=True, slots=True)
class RunEvent:
    """A transition to tell as a Kubernetes Event, once. `warning` picks its type."""

    seq: int
    reason: str
    message: str
    warning: bool
    at: datetime


@dataclass(frozen=True, slots=True)
class RunView:
    """One run as the API and the projector show it. `rev` grows with each change that a view should show."""

    run_id: UUID
    namespace: str
    name: str
    task: str
    queue: str
    state: RunState
    reason: str | None
    message: str | None
    rev: int
    attempt: int
    attempts_counted: int
    max_attempts: int
    version: int | None
    origin: str
    intent_uid: str | None
    tags: Sequence[str]
    idempotency_key: str | None
    pod_id: str | None
    pod_name: str | None
    last_seq: int
    last_key: str | None
    resumed_after: int | None
    progress: float | None
    progress_message: str | None
    input: str
    result: str | None
    error: Mapping[str, object] | None
    dead_lettered: bool
    created_at: datetime
    ready_at: datetime | None
    admitted_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    origin_run: UUID | None = None
    origin_seq: int | None = None
    redriven_by: UUID | None = None
    result_bytes: int | None = None
    """Of a result that is in object storage; `result` is None then."""


@dataclass(frozen=True, slots=True)
class AttemptView:
    attempt: int
    cause: str
    state: str
    reason: str | None
    message: str | None
    counted: bool
    pod_id: str
    resumed_after: int
    started_at: datetime | None
    ended_at: datetime | None
    evidence: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RecordView:
    """One record of a run, less its value. `kind`: step or checkpoint. `bytes`: of the value as JSON."""

    seq: int
    kind: str
    key: str
    bytes: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Projection:
    """A run whose CR is behind: write `view`, emit `events`, then tell the store. `cr_uid` None: no CR is known."""

    view: RunView
    cr_uid: str | None
    projected_rev: int
    events: Sequence[RunEvent]


@dataclass(frozen=True, slots=True)
class PodSession:
    """A sidecar's proven identity: row, namespace and uid of its pod."""

    pod_id: str
    namespace: str
    pod_uid: str
