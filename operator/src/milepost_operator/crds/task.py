"""Task: what runs, in what pod, from which queue and with what budget."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from milepost_operator.crds.common import (
    AnyObject,
    Conditions,
    Count,
    Label,
    Model,
    Name,
    Quantity,
    Word,
    keyed,
    rule,
    rules,
)
from milepost_operator.crds.core import Env, EnvFroms, Resources
from milepost_operator.crds.network import Network
from milepost_operator.crds.podspec import PodSettings
from milepost_operator.crds.schedule import Schedules, ScheduleStatuses

ENTRYPOINT = r"^[A-Za-z0-9_./-]+(:[A-Za-z_][A-Za-z0-9_.]*)?$"
MAX_SOURCE = 204_800


class Source(Model):
    """Code kept in the Task itself; it runs in the chart's runner image."""

    inline: Annotated[str, Field(min_length=1, max_length=MAX_SOURCE)]
    """Python source, at most 200 KB."""


class OnOOM(Model):
    """After an attempt that ran out of memory the next one has more; it counts as a failure all the same."""

    model_config = rules(
        rule(
            "isQuantity(string(self.maxMemory)) && quantity(string(self.maxMemory)).isGreaterThan(quantity('0'))",
            "retry.onOOM.maxMemory must be a quantity above 0",
            ".maxMemory",
        ),
    )

    factor: Annotated[float, Field(ge=1, le=16)] | None = None
    """Limit and request of the next pod are this many times those of the one before; 2."""
    max_memory: Quantity
    """No limit is raised above this; an attempt that had it is followed by one that has it again."""


class Retry(Model):
    """How often and how soon a failed run is tried again. Losses of infrastructure have a budget of their own."""

    model_config = rules(
        rule(
            "!has(self.minSeconds) || !has(self.maxSeconds) || self.minSeconds <= self.maxSeconds",
            "retry.maxSeconds must not be below retry.minSeconds",
            ".maxSeconds",
        ),
    )

    max_attempts: Annotated[int, Field(ge=1, le=100)] | None = None
    """Attempts in all, the first included; 3."""
    factor: Annotated[float, Field(ge=1, le=10)] | None = None
    """Each delay is this many times the one before; 2."""
    min_seconds: Annotated[float, Field(ge=0, le=86_400)] | None = None
    """Delay before the second attempt; 1."""
    max_seconds: Annotated[float, Field(ge=0, le=86_400)] | None = None
    """No delay is longer; 60."""
    randomize: bool | None = None
    """Take a random part of each delay, so that many failures do not come back at once; true."""
    on_oom: Annotated[OnOOM | None, Field(alias="onOOM")] = None
    """Memory of the attempts after one that ran out of it; none: the same as before."""


class Timeouts(Model):
    """Limits of time."""

    attempt_seconds: Annotated[int, Field(ge=1, le=2_592_000)] | None = None
    """One attempt, from its start in the pod; 3600."""
    run_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """The whole run, less the time it is suspended; 86400."""


class Semaphore(Model):
    """A limit shared by the Tasks of the namespace that name it; a run holds its units while it is at work."""

    model_config = rules(
        rule(
            "!has(self.units) || self.units <= self.limit",
            "semaphores: units must not be above limit (such a run could never start)",
            ".units",
        ),
    )

    name: Label
    """Its name in the namespace."""
    limit: Annotated[int, Field(ge=1, le=100_000)]
    """Units there are; where Tasks differ, the smallest limit is in force."""
    units: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Units a run of this Task holds; 1."""


Keep = Annotated[int, Field(ge=60, le=315_360_000)]


class Retention(Model):
    """How long what is left of ended runs is kept; what is not set is as the installation says."""

    successful_runs: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Run objects of the newest successes; older ones that kubectl did not make are deleted; 10."""
    failed_runs: Annotated[int, Field(ge=0, le=1000)] | None = None
    """The same for runs that ended otherwise; 20."""
    success_seconds: Keep | None = None
    """Succeeded runs, in the database and its lists, after their end; 2592000 (30 days)."""
    failure_seconds: Keep | None = None
    """Runs that ended otherwise; 7776000 (90 days). Dead letters stay until they are redriven or discarded."""
    records_success_seconds: Keep | None = None
    """Records of succeeded runs, which a retry resumes from; 604800 (7 days)."""
    records_failure_seconds: Keep | None = None
    """Records of runs that ended otherwise; 2592000 (30 days)."""


class RecordLimits(Model):
    """What one run may record; what is not set is as the installation says. More is refused, which fails the run."""

    max_count: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Records (steps, and versions of checkpoints); 20000."""
    max_bytes: Annotated[int, Field(ge=1024, le=1_099_511_627_776)] | None = None
    """Bytes of what is kept of them: of a value that grows, its first version and what came to it; 268435456."""


class Warm(Model):
    """Pods that stay after a run and take the next one of the version; what is not set is as the installation says."""

    model_config = rules(
        rule(
            "!has(self.min) || !has(self.max) || self.min <= self.max",
            "warm.max must not be below warm.min",
            ".max",
        ),
        rule(
            "!has(self.min) || self.min == 0 || !has(self.seconds) || self.seconds > 0",
            "warm.min needs pods that may wait: warm.seconds must not be 0",
            ".min",
        ),
        rule(
            "!has(self.min) || self.min == 0 || !has(self.reuse) || self.reuse == 'task'",
            "warm.min needs pods that any run may take: warm.reuse must be task",
            ".min",
        ),
    )

    seconds: Annotated[int, Field(ge=0, le=86_400)] | None = None
    """A pod waits so long for the next run, then it ends; 0: no pod stays; 60."""
    max: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Pods of this Task that wait at once; 5, or min where that is more."""
    min: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Pods of this Task that are there, at work or waiting, at least: they are made before any run needs them, and hold
    their requests all the time; 0."""
    predict: bool | None = None
    """More of them are made, and kept, when the schedules' next slots or the runs of the last minutes foretell them;
    true."""
    reuse: Literal["task", "key", "never"] | None = None
    """Which runs a pod may take: all of this Task, those with the concurrency key of its last one, or none; task. A pod
    with a volume of the Task's that can be written, or a writable root, stays only where this is set."""
    max_runs: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Runs that one pod takes at most; 100."""
    max_age_seconds: Annotated[int, Field(ge=1, le=2_592_000)] | None = None
    """A pod older than this takes no more runs, so that its environment is read anew from Secrets; 3600."""


class TaskSpec(Model):
    """Exactly one of image and source says what code there is; entrypoint or command says what of it runs."""

    model_config = rules(
        rule("has(self.image) != has(self.source)", "spec: set exactly one of image and source.inline"),
        rule("!(has(self.entrypoint) && has(self.command))", "spec: entrypoint and command exclude each other"),
        rule(
            "!has(self.image) || has(self.entrypoint) || has(self.command)",
            "spec: image needs an entrypoint (module:function) or a command",
        ),
        rule("!has(self.source) || !has(self.command)", "spec.command goes with image, not with source", ".command"),
        rule("!has(self.args) || has(self.command)", "spec.args goes with command", ".args"),
    )

    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\s]+$")] | None = None
    """Container image with the task's code."""
    source: Source | None = None
    """The code itself, instead of an image."""
    entrypoint: Annotated[str, Field(min_length=1, max_length=512, pattern=ENTRYPOINT)] | None = None
    """The task function, `module:function`."""
    command: Annotated[list[Annotated[str, Field(max_length=32_768)]], Field(min_length=1, max_length=64)] | None = None
    """Program of a task in any language; exit code 0 is success."""
    args: Annotated[list[Annotated[str, Field(max_length=32_768)]], Field(max_length=256)] | None = None
    """Arguments of command."""
    input_schema: AnyObject | None = None
    """JSON Schema (draft 2020-12, at most 64 KB) that the input of each new run has to fit; `milepost manifest` writes
    it."""
    output_schema: AnyObject | None = None
    """JSON Schema of the result."""
    resources: Resources | None = None
    """Requests and limits of the task container."""
    env: Env | None = None
    """Environment of the task container."""
    env_from: EnvFroms | None = None
    """Environment taken from whole Secrets and ConfigMaps."""
    pod: PodSettings | None = None
    """How the pods differ from the default shape."""
    queue: Name | None = None
    """Queue that limits the runs; `default` (which needs no Queue object)."""
    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Runs of this Task at work at once, beside the limits of its queue; none: no limit."""
    semaphores: Annotated[list[Semaphore], Field(max_length=8, json_schema_extra=keyed("name"))] | None = None
    """Limits shared with other Tasks."""
    retry: Retry | None = None
    """Budget of attempts and backoff; copied onto a run when it is made."""
    timeouts: Timeouts | None = None
    """Limits of time; copied onto a run when it is made."""
    on_change: Literal["fail", "hold", "accept"] | None = None
    """What becomes of a run whose code does not fit its records any more: it fails, it is held for a decision through
    the API, or it goes on with records found by their keys alone; fail."""
    records: RecordLimits | None = None
    """What one run may record; taken anew by each attempt."""
    versioning: Literal["pinned", "latest"] | None = None
    """Which version the next attempts of a run take after this Task changed: the one that the run began with, or the
    latest; pinned."""
    retention: Retention | None = None
    """How long what is left of ended runs is kept."""
    schedules: Schedules | None = None
    """Runs by the clock."""
    warm: Warm | None = None
    """Pods that stay for the next run. No part of the version: a change of it replaces no pod."""
    network: Network | None = None
    """What the pods may call. No part of the version: a change of it takes hold of pods that run."""
    prepull: bool | None = None
    """The image of a new version is pulled on a few nodes before its runs come; as the installation says."""


class WarmStatus(Model):
    """The Task's pods, and how its attempts started."""

    idle: Count | None = None
    """Pods that wait for a run."""
    busy: Count | None = None
    """Pods at work, or on their way to it."""
    hits: Count | None = None
    """Attempts that a waiting pod took, of its newest 200 runs of the last hour."""
    misses: Count | None = None
    """Attempts of the same runs that needed a new pod."""
    cold_reason: Word | None = None
    """Why the newest of these did: first, busy, version, template, memory, off, key, late or returned."""


class TaskStatus(Model):
    """What the operator made of it."""

    observed_generation: Count | None = None
    """metadata.generation that was taken."""
    version: Count | None = None
    """Version of the pod's shape: it grows with each change that shapes pods."""
    queue: Word | None = None
    """Queue in use."""
    next_run: datetime | None = None
    """Earliest next slot of its schedules."""
    schedules: ScheduleStatuses | None = None
    """Its schedules, those that come next first."""
    warm: WarmStatus | None = None
    """Pods that wait for its next runs."""
    conditions: Conditions | None = None
    """Accepted: new runs use this spec. QueueFound: its queue exists. SchedulesAccepted: all its schedules fire.
    NetworkApplied: the NetworkPolicies for spec.network are in place. MemoryProposal: recent attempts need more memory,
    or much less. TimeoutLoop, RetryStorm, CheckpointGap, MemoryGrowth, ImagePullFlapping: a pattern of failure.
    Prewarmed: warm.min pods are there. ImagePulled: the version's image is on nodes. NotForkSafe: its import costs each
    run of a pod."""


class Task(Model):
    """Code that runs durably: each attempt in a fresh process of a pod, resumed after its last checkpoint."""

    spec: TaskSpec
    """What to run."""
    status: TaskStatus | None = None
    """What the operator made of it."""
