"""Run: one execution of a Task; made by people it is an intent, made by the operator a projection of a row."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from milepost_operator.crds.common import AnyJSON, Conditions, Count, Model, Name, Text, Word, rule, rules

_SAME = "has(self.{0}) == has(oldSelf.{0}) && (!has(self.{0}) || self.{0} == oldSelf.{0})"
RUN_ID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


def _fixed(name: str) -> dict[str, str]:
    return rule(_SAME.format(name), f"spec.{name} is immutable: create another Run")


class RunSpec(Model):
    """Immutable, but for cancel, which can be set once."""

    model_config = rules(
        rule("self.task == oldSelf.task", "spec.task is immutable: create another Run", ".task"),
        _fixed("idempotencyKey"),
        _fixed("tags"),
        _fixed("runID"),
        rule(
            "!has(oldSelf.cancel) || !oldSelf.cancel || (has(self.cancel) && self.cancel)",
            "spec.cancel can't be taken back",
        ),
    )

    task: Name
    """Task of this namespace to run."""
    input: AnyJSON = None
    """Input of the task: any JSON, at most 64 KB here (1 MB through the API). Immutable."""
    idempotency_key: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Runs of a task with the same key within 24 hours are one run."""
    tags: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=128)]],
            Field(max_length=32, json_schema_extra={"x-kubernetes-list-type": "set"}),
        ]
        | None
    ) = None
    """Words to find the run by."""
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
