"""Queue: how many runs may be at work at once, and how often one may start."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from milepost_operator.crds.common import SET, Conditions, Count, Model, rule, rules

Pattern = Literal["TimeoutLoop", "RetryStorm", "CheckpointGap", "MemoryGrowth", "ImagePullFlapping"]


class Rate(Model):
    """So much cost may be admitted a period; first attempts and retries cost, resumes after a wait don't."""

    model_config = rules(
        rule(
            "!has(self.burst) || (has(self.algorithm) && self.algorithm == 'bucket')",
            "rate.burst goes with algorithm: bucket (a window never admits more than limit)",
            ".burst",
        ),
    )

    limit: Annotated[int, Field(ge=1, le=1_000_000)]
    """Cost (1 a run, unless the run says more) that a period admits."""
    period_seconds: Annotated[int, Field(ge=1, le=86_400)]
    """Length of the period."""
    algorithm: Literal["window", "bucket"] | None = None
    """window (default): never more than limit in any window of that length; bucket: a rate that saves up burst."""
    burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """What a bucket can save up; limit."""


class PerKey(Model):
    """Limits of each concurrency key of the queue; runs without a key share one place."""

    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Runs of one key at work at once; none: no limit."""
    rate: Rate | None = None
    """Rate of one key; none: no limit."""


class Breaker(Model):
    """Admit nothing for a while after too many failures, then let a few probes tell whether it is over."""

    failures: Annotated[int, Field(ge=1, le=1000)]
    """Failed or timed-out attempts within the window that open it."""
    window_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    """Length of the window; 60 unless set."""
    open_seconds: Annotated[int, Field(ge=1, le=86_400)] | None = None
    """How long nothing is admitted; 30 unless set."""
    probes: Annotated[int, Field(ge=1, le=100)] | None = None
    """Runs admitted then, all of which must succeed; 1 unless set."""


class QueueSpec(Model):
    """Limits of the queue; they bind at admission, so lowering one stops nothing that runs."""

    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Runs at work at once; none: no limit."""
    per_key: PerKey | None = None
    """Limits of each concurrency key; keys take turns, whatever their backlog."""
    rate: Rate | None = None
    """How often runs may start; none: no limit."""
    max_depth: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """New runs are refused while so many wait; none: no limit."""
    paused: bool | None = None
    """Admit nothing while true; what runs goes on."""
    breaker: Breaker | None = None
    """Circuit breaker; none unless set."""
    pause_on: Annotated[list[Pattern], Field(max_length=5, json_schema_extra=SET)] | None = None
    """Patterns of failure in a Task of the queue that pause it, once each time that one begins; none. Somebody has to
    resume it through the API."""


class QueueStatus(Model):
    """What is in the queue, as of a few seconds ago."""

    observed_generation: Count | None = None
    """metadata.generation that was taken."""
    depth: Count | None = None
    """Runs that wait for a slot; 10000 stands for more."""
    running: Count | None = None
    """Runs that hold a slot."""
    limit: Count | None = None
    """Limit in force; none: no limit."""
    override: Count | None = None
    """Limit set at run time, over that of the spec."""
    oldest: datetime | None = None
    """Since when the first of them waits."""
    rate: Annotated[str, Field(max_length=64)] | None = None
    """Rate in use and its limit, as 12/100 per 1m."""
    conditions: Conditions | None = None
    """Accepted: the limits are in force. Paused: nothing is admitted, by whom and why. BreakerOpen: too many failed."""


class Queue(Model):
    """Shared by the Tasks of its namespace that name it."""

    spec: QueueSpec
    """Limits of the queue."""
    status: QueueStatus | None = None
    """What is in it."""
