"""Schedules: what they are, and what is known of them. Times of slots are whole Unix seconds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from milepost_operator.domain.cron import MINUTE, Cron
from milepost_operator.domain.crontab import parse
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.zones import LAST_YEAR, zone_of

Overlap = Literal["allow", "forbid", "replace"]
Missed = Literal["skip", "latest", "catchup"]

MAX_CATCHUP: Final = 10_000
FIRST_YEAR: Final = 1973
"""Of times that people give."""


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """When, and what run then. `input`: JSON text. `start_at` is the first possible slot, `end_at` is after the last.

    `paused` is what the manifest says; the row may say otherwise since.
    """

    cron: str
    time_zone: str = "UTC"
    input: str = "null"
    jitter_seconds: int = 0
    overlap: Overlap = "allow"
    missed: Missed = "skip"
    catchup_limit: int = MAX_CATCHUP
    priority: int = 0
    concurrency_key: str = ""
    tags: Sequence[str] = ()
    start_at: datetime | None = None
    end_at: datetime | None = None
    paused: bool = False

    @property
    def timing(self) -> tuple[object, ...]:
        """What decides the slots: a change of it begins anew, with nothing missed."""
        return (self.cron, self.time_zone, self.start_at, self.end_at, self.jitter_seconds)


class Plan:
    """The slots of a spec within its start and end."""

    def __init__(self, spec: ScheduleSpec) -> None:
        self._cron: Cron = parse(spec.cron)
        self.zone = spec.time_zone
        self._start = int(spec.start_at.timestamp()) if spec.start_at else 0
        self._end = spec.end_at.timestamp() if spec.end_at else float("inf")

    @property
    def least_gap(self) -> int:
        """Seconds that two slots are apart at least."""
        return MINUTE if len(self._cron.seconds) == 1 else 1

    def after(self, unix: int) -> int | None:
        slot = self._cron.after(max(unix, self._start - 1), self.zone)
        return None if slot is None or slot >= self._end else slot

    def before(self, unix: int) -> int | None:
        """The last slot at or before `unix`."""
        slot = self._cron.before(int(min(unix, self._end - 1)), self.zone)
        return None if slot is None or slot < self._start else slot

    def slots(self, unix: int) -> Iterator[int]:
        slot = self.after(unix)
        while slot is not None:
            yield slot
            slot = self.after(slot)


def check_time(at: datetime, path: str) -> None:
    """Raise InvalidInputError for a time that no slot can have, or that is in no zone."""
    if at.tzinfo is None:
        raise InvalidInputError("invalid-field", f"{path} needs an offset, such as Z or +02:00", path)
    if not FIRST_YEAR <= at.year < LAST_YEAR:
        raise InvalidInputError("invalid-field", f"{path} must lie in the years {FIRST_YEAR} to {LAST_YEAR - 1}", path)


def check(spec: ScheduleSpec) -> None:
    """Raise InvalidInputError, with the field as its path, for a schedule that can't work."""
    for path, test, value in (("cron", parse, spec.cron), ("timeZone", zone_of, spec.time_zone)):
        try:
            test(value)
        except InvalidInputError as error:
            raise InvalidInputError(error.code, str(error), path) from error
    for path, at in (("startAt", spec.start_at), ("endAt", spec.end_at)):
        if at is not None:
            check_time(at, path)
    if spec.jitter_seconds > MINUTE > Plan(spec).least_gap:
        message = f"jitterSeconds can't be above {MINUTE} where cron has several seconds in its first field"
        raise InvalidInputError("invalid-schedule", message, "jitterSeconds")
    if spec.overlap == "replace" and spec.missed == "catchup":
        message = "catchup can't go with overlap: replace, where each slot would cancel the one before: use latest"
        raise InvalidInputError("invalid-schedule", message, "missed")
    if spec.start_at and spec.end_at and spec.start_at >= spec.end_at:
        raise InvalidInputError("invalid-schedule", "endAt must be after startAt", "endAt")
    if spec.start_at and spec.end_at and Plan(spec).after(0) is None:
        raise InvalidInputError("invalid-schedule", "no slot of cron lies between startAt and endAt", "endAt")


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A schedule's row. `managed`: of its Task's manifest. Not `active`: its Task is missing."""

    schedule_id: UUID
    namespace: str
    task: str
    name: str
    spec: ScheduleSpec
    managed: bool
    active: bool
    paused: bool
    paused_by: str | None
    next_at: datetime | None
    last_slot: str | None
    fired: int
    overlapped: int
    dropped: int
    note: str | None
    note_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Backfill:
    """Slots of a range: how many, how many of them have a run of now, and had one before; the first and the last."""

    slots: int
    created: int
    existing: int
    first: str | None
    last: str | None


@dataclass(frozen=True, slots=True)
class Fired:
    """One turn of the duty: schedules it decided on, runs it made."""

    schedules: int
    runs: int


@dataclass(frozen=True, slots=True)
class TaskSchedules:
    """What a Task's status shows: its earliest next slot, and its schedules (JSON objects), the next ones first."""

    namespace: str
    task: str
    changed_at: datetime
    next_at: datetime | None
    schedules: Sequence[str]
