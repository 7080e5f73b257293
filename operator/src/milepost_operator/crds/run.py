"""Run: one execution of a Task; made by people it is an intent, made by the operator a projection of a row."""

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field

from milepost_operator.crds.common import AnyJSON, Conditions, Count, Model, Name, Text, Word, rule, rules
from milepost_operator.domain import options

_SAME = "has(self.{0}) == has(oldSelf.{0}) && (!has(self.{0}) || self.{0} == oldSelf.{0})"
RUN_ID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


def _fixed(name: str) -> dict[str, str]:
    return rule(_SAME.format(name), f"spec.{name} is immutable: create another Run")


_IMMUTABLE: Final = (
    "idempotencyKey",
    "idempotencyScope",
    "idempotencySeconds",
    "tags",
    "runID",
    "delaySeconds",
    "ttlSeconds",
    "deadlineSeconds",
    "priority",
    "concurrencyKey",
    "cost",
    "debounce",
    "singleton",
    "throttle",
)

Key = Annotated[str, Field(min_length=1, max_length=options.MAX_KEY)]
Seconds = Annotated[int, Field(ge=options.MIN_PERIOD, le=options.MAX_SECONDS)]


class Debounce(Model):
    """One delayed run for each key: a Run of the same key puts it off and becomes its duplicate."""

    key: Key
    """Runs of a task with the same key mean the same run."""
    seconds: Seconds
    """How long the run waits after the newest of them."""
    max_seconds: Seconds | None = None
    """How long it waits in all; none: ten times seconds."""
    payload: Literal["first", "latest"] | None = None
    """Whose input it gets; none: the latest."""


class Singleton(Model):
    """At most one run of the task that has not ended for each key."""

    key: Key
    """Runs of a task with the same key exclude each other."""
    on_conflict: Literal["return", "reject"] | None = None
    """What another Run becomes: return (the default): a duplicate; reject: refused."""


class Throttle(Model):
    """At most limit Runs of a key are taken in any period; more wait to be taken."""

    key: Key
    """Runs of a task with the same key are counted together."""
    limit: Annotated[int, Field(ge=1, le=options.MAX_LIMIT)]
    """How many are taken."""
    period_seconds: Seconds
    """In how long."""


class RunSpec(Model):
    """Immutable, but for cancel, which can be set once."""

    model_config = rules(
        rule("self.task == oldSelf.task", "spec.task is immutable: create another Run", ".task"),
        *(_fixed(name) for name in _IMMUTABLE),
        rule(
            "!has(oldSelf.cancel) || !oldSelf.cancel || (has(self.cancel) && self.cancel)",
            "spec.cancel can't be taken back",
        ),
    )

    task: Name
    """Task of this namespace to run."""
    input: AnyJSON = None
    """Input of the task: any JSON, at most 64 KB here (1 MB through the API). Immutable."""
    idempotency_key: Key | None = None
    """Runs of a task with the same key within 24 hours are one run."""
    idempotency_scope: Literal["window", "active"] | None = None
    """How long the key lasts; window (the default): for idempotencySeconds; active: until its run has ended."""
    idempotency_seconds: Seconds | None = None
    """How long a key of scope window lasts; none: 24 hours."""
    tags: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=128)]],
            Field(max_length=32, json_schema_extra={"x-kubernetes-list-type": "set"}),
        ]
        | None
    ) = None
    """Words to find the run by."""
    delay_seconds: Annotated[int, Field(ge=0, le=options.MAX_SECONDS)] | None = None
    """How long the run waits before it is due."""
    ttl_seconds: Seconds | None = None
    """The run expires when it was not admitted for so long after it was due."""
    deadline_seconds: Seconds | None = None
    """The run ends as TimedOut so long after it was made, whatever it does then."""
    priority: Annotated[int, Field(ge=options.MIN_PRIORITY, le=options.MAX_PRIORITY)] | None = None
    """Each step counts like a minute of age among the runs of its key; none: 0."""
    concurrency_key: Annotated[str, Field(max_length=options.MAX_KEY)] | None = None
    """Runs with the same key share the queue's limits for a key."""
    cost: Annotated[int, Field(ge=1, le=options.MAX_LIMIT)] | None = None
    """What the run takes of rate limits; none: 1."""
    debounce: Debounce | None = None
    """Many Runs, one run."""
    singleton: Singleton | None = None
    """One run at a time."""
    throttle: Throttle | None = None
    """So many Runs in so long."""
    cancel: bool | None = None
    """True asks the run to end; it can't be taken back."""
    run_id: Annotated[str, Field(min_length=36, max_length=36, pattern=RUN_ID)] | None = Field(None, alias="runID")
    """Set by the operator alone: this object shows a run made elsewhere."""


class RunStatus(Model):
    """The run's row, as of its last transition."""

    run_id: Annotated[str, Field(max_length=36)] | None = Field(None, alias="runID")
    """Id of the run."""
    phase: Annotated[str, Field(max_length=32)] | None = None
    """Delayed, Queued, Admitted, Running, Suspended, Backoff, Held, Cancelling, Succeeded, Failed, Cancelled, TimedOut
    or Expired."""
    attempt: Count | None = None
    """Number of the newest attempt."""
    attempts_counted: Count | None = None
    """Attempts that count against maxAttempts."""
    max_attempts: Count | None = None
    """How many may."""
    last_checkpoint: Annotated[str, Field(max_length=512)] | None = None
    """Key of the newest record."""
    last_seq: Count | None = None
    """Number of the newest record: how many there are."""
    resumed_after: Count | None = None
    """Number of the record the newest attempt went on from."""
    progress: Annotated[str, Field(max_length=160)] | None = None
    """What the task says of its progress."""
    reason: Word | None = None
    """Why it waits or how it ended, in one word."""
    message: Text | None = None
    """Why it waits or how it ended."""
    pod_name: Word | None = None
    """Pod of the newest attempt."""
    version: Count | None = None
    """Version of the Task it runs on."""
    queue: Word | None = None
    """Its queue."""
    started_at: datetime | None = None
    """When its first attempt started."""
    finished_at: datetime | None = None
    """When it ended."""
    observed_generation: Count | None = None
    """metadata.generation that was taken."""
    conditions: Conditions | None = None
    """Accepted, Admitted, Running, Succeeded."""


class Run(Model):
    """One execution of a Task."""

    spec: RunSpec
    """What to run."""
    status: RunStatus | None = None
    """How it goes."""
