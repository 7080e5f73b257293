"""Rows of schedules: their specs as JSON text, and the other way round."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import orjson

from milepost_operator.adapters.postgres.database import Connection, Row, as_uuid
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.inputs import input_hash
from milepost_operator.domain.schedules import ScheduleSpec, ScheduleView
from milepost_operator.domain.slots import Decision, begin

_SMALL: Final = 1_024
"""Characters of a spec that is kept parsed."""


def spec_text(spec: ScheduleSpec) -> str:
    """The spec as it is kept: one JSON object, with the user's input as it was given."""
    return orjson.dumps(
        {
            "cron": spec.cron,
            "timeZone": spec.time_zone,
            "input": orjson.Fragment(spec.input),
            "jitterSeconds": spec.jitter_seconds,
            "overlap": spec.overlap,
            "missed": spec.missed,
            "catchupLimit": spec.catchup_limit,
            "priority": spec.priority,
            "concurrencyKey": spec.concurrency_key,
            "tags": list(spec.tags),
            "startAt": spec.start_at,
            "endAt": spec.end_at,
            "paused": spec.paused,
        },
    ).decode()


def read_spec(text: str, given: str | None = None) -> ScheduleSpec:
    """The other way round. `given`: the input's own text, where it matters."""
    kept: Mapping[str, Any] = orjson.loads(text)
    return ScheduleSpec(
        cron=kept["cron"],
        time_zone=kept["timeZone"],
        input=given if given is not None else orjson.dumps(kept["input"]).decode(),
        jitter_seconds=kept["jitterSeconds"],
        overlap=kept["overlap"],
        missed=kept["missed"],
        catchup_limit=kept["catchupLimit"],
        priority=kept["priority"],
        concurrency_key=kept["concurrencyKey"],
        tags=tuple(kept["tags"]),
        start_at=_time(kept["startAt"]),
        end_at=_time(kept["endAt"]),
        paused=kept["paused"],
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def parsed(text: str) -> tuple[ScheduleSpec, bytes]:
    """The spec and the identity of its input."""
    return _kept(text) if len(text) <= _SMALL else _kept.__wrapped__(text)


@lru_cache(maxsize=16_384)
def _kept(text: str) -> tuple[ScheduleSpec, bytes]:
    spec = read_spec(text)
    return spec, input_hash(spec.input)


def when(unix: float | None) -> datetime | None:
    return None if unix is None else datetime.fromtimestamp(unix, UTC)


def view_of(row: Row) -> ScheduleView:
    return ScheduleView(
        schedule_id=as_uuid(row["schedule_id"]),
        namespace=row["namespace"],
        task=row["task"],
        name=row["name"],
        spec=read_spec(row["spec"], row["input"]),
        managed=row["managed"],
        active=row["active"],
        paused=row["paused"],
        paused_by=row["paused_by"],
        next_at=row["next_at"],
        last_slot=row["last_slot"],
        fired=row["fired"],
        overlapped=row["overlapped"],
        dropped=row["dropped"],
        note=row["note"],
        note_at=row["note_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


async def put_schedule(
    connection: Connection,
    key: tuple[object, str, str, str, str],
    spec: ScheduleSpec,
    begun: Decision,
    *,
    managed: bool,
    active: bool,
    paused_by: str | None,
) -> bool:
    """Write a schedule whole. `key`: id, cluster, namespace, task, name. False: another one has its name."""
    waits = active and paused_by is None
    written = await connection.fetchval(
        Q["put_schedule"],
        *key,
        spec_text(spec),
        managed,
        active,
        paused_by is not None,
        paused_by,
        when(begun.cursor),
        when(begun.next_slot) if waits else None,
        when(begun.look_at) if waits else None,
    )
    return written is not None


def continued(row: Row, before: ScheduleSpec, spec: ScheduleSpec, *, resumed: bool = False) -> Decision:
    """Where an edited schedule goes on: where it was, or from now if its timing is another one or it rested."""
    schedule_id, now = as_uuid(row["schedule_id"]), int(row["now"].timestamp())
    rested = resumed or not row["active"] or row["paused"] or row["next_at"] is None
    if rested or before.timing != spec.timing:
        return begin(schedule_id, spec, now)
    return Decision(int(row["cursor_at"].timestamp()), int(row["next_at"].timestamp()), row["due_at"].timestamp())
