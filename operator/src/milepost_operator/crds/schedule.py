"""Schedules of a Task: cron, and what becomes of slots that overlap or are missed."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from milepost_operator.crds.common import AnyJSON, Label, Model, Text, keyed, rule, rules

CRON = r"^\s*(@[a-zA-Z]+|\S+(\s+\S+){4,5})\s*$"
ZONE = r"^[A-Za-z0-9_+/-]+$"
MAX_SCHEDULES = 32


class ScheduleSettings(Model):
    """When, and what run then."""

    model_config = rules(
        rule(
            "!has(self.overlap) || !has(self.missed) || self.overlap != 'replace' || self.missed != 'catchup'",
            "missed: catchup can't go with overlap: replace, where each slot would cancel the one before: use latest",
            ".missed",
        ),
        rule(
            "!has(self.startAt) || !has(self.endAt) || self.startAt < self.endAt",
            "endAt must be after startAt",
            ".endAt",
        ),
    )

    cron: Annotated[str, Field(min_length=1, max_length=256, pattern=CRON)]
    """Five fields (minute, hour, day of month, month, day of week), six with the second first, or @daily."""
    time_zone: Annotated[str, Field(min_length=1, max_length=64, pattern=ZONE)] | None = None
    """IANA time zone that cron is read in, such as Europe/Berlin; UTC."""
    input: AnyJSON = None
    """Input of the runs: any JSON, at most 64 KB. $(slot) in it becomes the slot's time, $(slot.utc) that in UTC."""
    jitter_seconds: Annotated[int, Field(ge=0, le=86_400)] | None = None
    """Each slot fires up to so much later, by a part of it that is random but always the same for the slot; 0."""
    overlap: Literal["allow", "forbid", "replace"] | None = None
    """When a run of this schedule has not ended yet: allow another, forbid it (the slot is passed over), or replace it
    (it is cancelled); allow."""
    missed: Literal["skip", "latest", "catchup"] | None = None
    """Slots that nobody could fire within a minute: skip them, run the latest, or catchup on all, in order; skip."""
    catchup_limit: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """With catchup: the newest so many are run; 10000."""
    priority: Annotated[int, Field(ge=-100, le=100)] | None = None
    """Priority of the runs; 0."""
    concurrency_key: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Concurrency key of the runs."""
    tags: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=128)]],
            Field(max_length=32, json_schema_extra={"x-kubernetes-list-type": "set"}),
        ]
        | None
    ) = None
    """Words to find the runs by."""
    start_at: datetime | None = None
    """No slot before this."""
    end_at: datetime | None = None
    """No slot at or after this."""
    paused: bool | None = None
    """Nothing fires, and nothing is missed; false. A change here pauses or resumes; between changes the API may too."""


class Schedule(ScheduleSettings):
    """One schedule of a Task."""

    name: Label
    """Name, of its own within the Task; under another name it is another schedule."""


Schedules = Annotated[list[Schedule], Field(max_length=MAX_SCHEDULES, json_schema_extra=keyed("name"))]


class ScheduleStatus(Model):
    """One schedule, as of a few seconds ago."""

    name: Label
    """Its name."""
    next_run: datetime | None = None
    """When its next slot is."""
    paused: bool | None = None
    """Nothing fires."""
    message: Text | None = None
    """What became of slots that did not run."""


ScheduleStatuses = Annotated[list[ScheduleStatus], Field(max_length=MAX_SCHEDULES, json_schema_extra=keyed("name"))]
