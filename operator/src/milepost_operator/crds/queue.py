"""Queue: how many runs may be at work at once."""

from typing import Annotated

from pydantic import Field

from milepost_operator.crds.common import Conditions, Count, Model


class QueueSpec(Model):
    """Limits of the queue; they bind at admission, so lowering one stops nothing that runs."""

    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Runs at work at once; none: no limit."""


class QueueStatus(Model):
    """What is in the queue, as of a few seconds ago."""

    observed_generation: Count | None = None
    """metadata.generation that was taken."""
    limit: Count | None = None
    """Limit in force."""
    running: Count | None = None
    """Runs that hold a slot."""
    waiting: Count | None = None
    """Runs that wait for one."""
    conditions: Conditions | None = None
    """Accepted: the limits are in force."""


class Queue(Model):
    """Shared by the Tasks of its namespace that name it."""

    spec: QueueSpec
    """Limits of the queue."""
    status: QueueStatus | None = None
    """What is in it."""
