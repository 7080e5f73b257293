"""Waits that a run is suspended on: what is a proper one, and how it is told."""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Final

from milepost.wire.pod import MAX_KEY_BYTES, MAX_WAITS, SettleRequest, Wait
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.runs import Ending
from milepost_operator.domain.states import Reason

MAX_NAME_CHARS: Final = 256
MAX_SECONDS: Final = 10 * 366 * 86400
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TOLD: Final = 3
TIMED: Final = frozenset({"timer", "retry"})
"""Kinds of waits that time alone resolves."""


def require_waits(waits: Sequence[Wait], path: str = "$.waits") -> None:
    """Raise InvalidInputError, with the place, for waits that nothing could ever resolve or that can't be kept."""
    if not 1 <= len(waits) <= MAX_WAITS:
        raise InvalidInputError("invalid-field", f"a suspended attempt has 1 to {MAX_WAITS} waits", path)
    seen: set[str] = set()
    for index, wait in enumerate(waits):
        _require_wait(wait, f"{path}[{index}]")
        if wait.key in seen:
            raise InvalidInputError("duplicate-key", f"two waits have the key {wait.key!r}", f"{path}[{index}].key")
        seen.add(wait.key)


def moment(wait: Wait) -> datetime | None:
    """Its `until`. ValueError when that is no time with an offset from UTC."""
    if wait.until is None:
        return None
    found = datetime.fromisoformat(wait.until)
    if found.tzinfo is None:
        raise ValueError(f"{wait.until} has no offset from UTC")
    return found


def suspended(request: SettleRequest) -> Ending:
    """The ending of an attempt that gave its pod back to wait; for tries of steps alone, until the first of them."""
    waits = request.waits
    if all(wait.kind == "retry" for wait in waits):
        first = min(waits, key=lambda wait: wait.seconds or 0.0)
        others = f" (and {len(waits) - 1} more)" if len(waits) > 1 else ""
        return Ending(
            Reason.STEP_BACKOFF,
            f"{first.name or first.key}{others}",
            counted=False,
            evidence=asdict(request.evidence),
            retry_after_seconds=first.seconds,
        )
    told = ", ".join(_told(wait) for wait in waits[:_TOLD])
    more = f" and {len(waits) - _TOLD} more" if len(waits) > _TOLD else ""
    return Ending(Reason.SUSPENDED, f"waits for {told}{more}", counted=False, evidence=asdict(request.evidence))


def _told(wait: Wait) -> str:
    what = "a timer" if wait.kind in TIMED else f"{wait.kind} {wait.name or wait.key}"
    if wait.until is not None:
        return f"{what} until {wait.until}"
    return what if wait.seconds is None else f"{what} for {wait.seconds:g} s"


def _require_wait(wait: Wait, path: str) -> None:
    _require_key(wait.key, f"{path}.key")
    if wait.name is not None and (not 1 <= len(wait.name) <= MAX_NAME_CHARS or "\x00" in wait.name):
        message = f"a name has 1 to {MAX_NAME_CHARS} characters and no U+0000"
        raise InvalidInputError("invalid-field", message, f"{path}.name")
    if wait.kind in {"signal", "event", "child"} and wait.name is None:
        raise InvalidInputError("missing-field", f"a wait of kind {wait.kind} names what it waits for", f"{path}.name")
    if wait.kind == "child" and not _UUID.fullmatch(wait.name or ""):
        raise InvalidInputError("invalid-field", "a child is named by its run id, a UUID in lower case", f"{path}.name")
    _require_moment(wait, path)


def _require_key(key: str, path: str) -> None:
    if not 1 <= len(key.encode(errors="replace")) <= MAX_KEY_BYTES or "\x00" in key:
        raise InvalidInputError("invalid-key", f"a key has 1 to {MAX_KEY_BYTES} bytes and no U+0000", path)


def _require_moment(wait: Wait, path: str) -> None:
    if wait.seconds is not None and wait.until is not None:
        raise InvalidInputError("invalid-field", "`seconds` or `until`, not both", f"{path}.until")
    if wait.kind == "retry" and wait.seconds is None:
        raise InvalidInputError("missing-field", "a retry has `seconds`", f"{path}.seconds")
    if wait.kind == "timer" and wait.seconds is None and wait.until is None:
        raise InvalidInputError("missing-field", "a timer has `seconds` or `until`", f"{path}.seconds")
    if wait.seconds is not None and not (math.isfinite(wait.seconds) and 0 <= wait.seconds <= MAX_SECONDS):
        message = f"from 0 to {MAX_SECONDS} seconds (ten years)"
        raise InvalidInputError("invalid-field", message, f"{path}.seconds")
    try:
        moment(wait)
    except ValueError as error:
        message = f"not a time in ISO 8601 with its offset from UTC, as 2030-01-31T09:00:00+00:00: {error}"
        raise InvalidInputError("invalid-field", message, f"{path}.until") from None
