"""Schedules as manifests and the API write them, as the engine knows them."""

import json
from typing import Final

from milepost.wire.values import check_text
from milepost_operator.crds.schedule import ScheduleSettings
from milepost_operator.domain.errors import InvalidInputError, TooLargeError
from milepost_operator.domain.schedules import ScheduleSpec, check

MAX_INPUT_BYTES: Final = 65_536


def schedule_of(given: ScheduleSettings) -> ScheduleSpec:
    """With defaults, and checked. Raises InvalidInputError; its path is the field's name."""
    text = json.dumps(given.input, ensure_ascii=False, separators=(",", ":"))
    words = json.dumps([given.concurrency_key, given.tags], ensure_ascii=False)
    for path, kept in (("input", text), ("tags", words)):
        bad = check_text(kept)
        if bad:
            raise InvalidInputError(bad.code, f"{path}: {bad.detail}", path)
    if len(text.encode()) > MAX_INPUT_BYTES:
        message = f"the input has {len(text.encode())} bytes, a schedule's may have {MAX_INPUT_BYTES}: pass a reference"
        raise TooLargeError("input-too-large", message, "input")
    base = ScheduleSpec("")
    spec = ScheduleSpec(
        cron=given.cron,
        time_zone=given.time_zone or base.time_zone,
        input=text,
        jitter_seconds=given.jitter_seconds or 0,
        overlap=given.overlap or base.overlap,
        missed=given.missed or base.missed,
        catchup_limit=given.catchup_limit or base.catchup_limit,
        priority=given.priority or 0,
        concurrency_key=given.concurrency_key or "",
        tags=tuple(given.tags or ()),
        start_at=given.start_at,
        end_at=given.end_at,
        paused=given.paused or False,
    )
    check(spec)
    return spec
