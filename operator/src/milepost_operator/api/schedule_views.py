"""Schedules on the wire: what callers write, and what they read."""

import base64
import binascii
from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel

from milepost_operator.crds.common import DNS_LABEL, DNS_SUBDOMAIN
from milepost_operator.crds.schedule import ScheduleSettings
from milepost_operator.domain.cron import slot_name
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.ids import MAX_NAME
from milepost_operator.domain.schedules import ScheduleSpec, ScheduleView

MAX_PAGE: Final = 500
_KEY_PARTS: Final = 3

Namespace = Annotated[str, Field(min_length=1, max_length=MAX_NAME, pattern=DNS_SUBDOMAIN)]
TaskName = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)]
ScheduleName = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]
_TIMES: Final = TypeAdapter(datetime)


def _time(value: object) -> object:
    """RFC 3339 text as a time: strict models take only what JSON has no type for."""
    return _TIMES.validate_strings(value) if isinstance(value, str) else value


Time = Annotated[datetime, BeforeValidator(_time)]


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class ScheduleChangeBody(ScheduleSettings):
    """What to change: a field that is not there stays as it is, null brings its default back."""

    cron: Annotated[str, Field(min_length=1, max_length=256)] | None = None  # type: ignore[assignment]
    time_zone: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    start_at: Time | None = None
    end_at: Time | None = None


class ScheduleBody(ScheduleChangeBody):
    """`namespace`: the token's own unless it may name any. The other fields are those of a Task's spec.schedules."""

    namespace: Namespace | None = None
    task: TaskName
    name: ScheduleName
    cron: Annotated[str, Field(min_length=1, max_length=256)]


class BackfillBody(_Model):
    """Slots from `from` (included) to `to` (not); `dryRun` only counts them."""

    since: Time = Field(alias="from")
    until: Time = Field(alias="to")
    dry_run: bool = False


class OneQuery(_Model):
    namespace: str | None = None


class ListQuery(OneQuery):
    """`namespace` `*`: all, for tokens that may name any."""

    task: str | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 50
    cursor: str | None = None


class ScheduleOut(_Model):
    """`nextRun`: the next slot, less its jitter. Not `active`: the Task is missing."""

    id: UUID
    namespace: str
    task: str
    name: str
    managed: bool
    active: bool
    cron: str
    time_zone: str
    input: object
    jitter_seconds: int
    overlap: str
    missed: str
    catchup_limit: int
    priority: int
    concurrency_key: str | None
    tags: list[str]
    start_at: datetime | None
    end_at: datetime | None
    paused: bool
    paused_by: str | None
    next_run: datetime | None
    next_slot: str | None
    last_slot: str | None
    fired: int
    overlapped: int
    dropped: int
    message: str | None
    message_at: datetime | None
    created_at: datetime
    updated_at: datetime


class SchedulesOut(_Model):
    items: list[ScheduleOut]
    next_cursor: str | None


class BackfillOut(_Model):
    """`slots` in the range: `created` have a run since now, `existing` had one."""

    slots: int
    created: int
    existing: int
    first: str | None
    last: str | None
    dry_run: bool


def as_given(spec: ScheduleSpec) -> dict[str, object]:
    return {
        "cron": spec.cron,
        "timeZone": spec.time_zone,
        "input": orjson.loads(spec.input),
        "jitterSeconds": spec.jitter_seconds,
        "overlap": spec.overlap,
        "missed": spec.missed,
        "catchupLimit": spec.catchup_limit,
        "priority": spec.priority,
        "concurrencyKey": spec.concurrency_key or None,
        "tags": list(spec.tags),
        "startAt": spec.start_at,
        "endAt": spec.end_at,
        "paused": spec.paused,
    }


def schedule_out(view: ScheduleView) -> dict[str, object]:
    next_slot = None if view.next_at is None else slot_name(int(view.next_at.timestamp()), view.spec.time_zone)
    return {
        "id": view.schedule_id,
        "namespace": view.namespace,
        "task": view.task,
        "name": view.name,
        "managed": view.managed,
        "active": view.active,
        **as_given(view.spec),
        "input": orjson.Fragment(view.spec.input),
        "paused": view.paused,
        "pausedBy": view.paused_by,
        "nextRun": view.next_at,
        "nextSlot": next_slot,
        "lastSlot": view.last_slot,
        "fired": view.fired,
        "overlapped": view.overlapped,
        "dropped": view.dropped,
        "message": view.note,
        "messageAt": view.note_at,
        "createdAt": view.created_at,
        "updatedAt": view.updated_at,
    }


def cursor_after(view: ScheduleView) -> str:
    text = f"{view.namespace}|{view.task}|{view.name}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def parse_cursor(cursor: str) -> tuple[str, str, str]:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError("invalid-cursor", "pass a nextCursor as it was given", "cursor") from error
    parts = text.split("|")
    if len(parts) != _KEY_PARTS or "\x00" in text:
        raise InvalidInputError("invalid-cursor", "pass a nextCursor as it was given", "cursor")
    return parts[0], parts[1], parts[2]
