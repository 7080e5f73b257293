"""What a sidecar may send: bounds that its types don't tell. Pure functions over records of the pod protocol."""

import dataclasses
import math
import re
from typing import Final

from milepost.wire.delta import loaded
from milepost.wire.pod import (
    MAX_KEY_BYTES,
    MAX_WRITE_ID_CHARS,
    Failure,
    Fence,
    HeartbeatRequest,
    RecordWrite,
    SettleRequest,
)
from milepost.wire.values import INT_MAX
from milepost_operator.domain.errors import InvalidInputError, TooLargeError
from milepost_operator.domain.suspension import require_waits

MAX_RECORDS: Final = 256
MAX_FINGERPRINT_CHARS: Final = 256
MAX_MESSAGE_CHARS: Final = 1_024
MAX_FAILURE_CHARS: Final = 16_384
MAX_TRACEBACK_CHARS: Final = 65_536
MAX_LEFT: Final = 20
MAX_LEFT_CHARS: Final = 200

_INT32: Final = 2**31 - 1
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def require_fence(fence: Fence, path: str = "$.fence") -> None:
    """Raise InvalidInputError for ids and numbers that no attempt can have."""
    if not _UUID.fullmatch(fence.run_id):
        raise InvalidInputError("invalid-field", "run_id is not a UUID in lower case", f"{path}.run_id")
    if not 1 <= fence.attempt <= _INT32:
        raise InvalidInputError("invalid-field", "attempt counts from 1", f"{path}.attempt")
    if not 0 <= fence.token <= INT_MAX:
        raise InvalidInputError("invalid-field", "token is a 64-bit number", f"{path}.token")


def require_count(found: int, what: str) -> None:
    """Raise InvalidInputError for a request with none of what it is for, or too many. `what`: the member with it."""
    if not 1 <= found <= MAX_RECORDS:
        raise InvalidInputError("invalid-field", f"a request has 1 to {MAX_RECORDS} {what}", f"$.{what}")


def require_record(record: RecordWrite, path: str) -> None:
    """Raise InvalidInputError for a key, write id or fingerprint that can't be kept."""
    require_text(record.key, f"{path}.key")
    require_text(record.fingerprint or "", f"{path}.fingerprint")
    if not 1 <= len(record.key.encode()) <= MAX_KEY_BYTES:
        raise InvalidInputError("invalid-key", f"a key has 1 to {MAX_KEY_BYTES} bytes", f"{path}.key")
    require_write_id(record.write_id, path)
    if record.failed and record.kind != "step":
        raise InvalidInputError("invalid-field", "only a step can have failed", f"{path}.failed")
    if record.fingerprint is not None and len(record.fingerprint) > MAX_FINGERPRINT_CHARS:
        message = f"a fingerprint has at most {MAX_FINGERPRINT_CHARS} characters"
        raise InvalidInputError("invalid-field", message, f"{path}.fingerprint")


def require_delta(record: RecordWrite, limit: int, path: str) -> None:
    """Raise InvalidInputError for a delta that gives no value. What it is made on is the store's to say."""
    if record.delta is None:
        if record.base is not None or record.size is not None:
            raise InvalidInputError("missing-field", "base and size go with a delta", f"{path}.delta")
        return
    if record.value or record.base is None or record.size is None or not 1 <= record.base <= INT_MAX:
        raise InvalidInputError("invalid-field", "a delta goes with a base and a size, not with a value", path)
    if not 0 < record.size <= limit:
        message = f"the value of {record.key!r} has {record.size} bytes; the limit is {limit}"
        raise TooLargeError("record-too-large", message, f"{path}.size")
    try:
        loaded(record.delta)
    except ValueError as error:
        raise InvalidInputError("invalid-field", str(error), f"{path}.delta") from error


def require_result(asked: SettleRequest) -> None:
    """Raise InvalidInputError for a result in object storage that is none, or is told twice."""
    if asked.result_object is None:
        return
    if asked.outcome != "succeeded" or asked.result is not None or not _UUID.fullmatch(asked.result_object):
        message = "an object's id goes with a success, in the place of its result"
        raise InvalidInputError("invalid-field", message, "$.result_object")


def require_write_id(write_id: str, path: str) -> None:
    """Raise InvalidInputError for one that can't be kept."""
    require_text(write_id, f"{path}.write_id")
    if not 1 <= len(write_id) <= MAX_WRITE_ID_CHARS:
        message = f"a write id has 1 to {MAX_WRITE_ID_CHARS} characters"
        raise InvalidInputError("invalid-field", message, f"{path}.write_id")


def require_text(text: str, path: str) -> None:
    """Raise InvalidInputError for text that Postgres can't hold."""
    if "\x00" in text:
        raise InvalidInputError("nul-character", "U+0000 can't be kept", path)


def mended_beat(beat: HeartbeatRequest) -> HeartbeatRequest:
    """Odd progress is put right: for its sake no lease may be lost."""
    progress = beat.progress
    if progress is not None:
        progress = min(max(progress, 0.0), 1.0) if math.isfinite(progress) else None
    message = beat.progress_message
    return HeartbeatRequest(beat.fence, progress, message and _clip(message, MAX_MESSAGE_CHARS))


def mended_settle(request: SettleRequest) -> SettleRequest:
    """Check what belongs together. A failure's texts are cut and cleaned: for their sake no ending may be lost."""
    failed, waits = request.outcome == "failed", request.outcome == "suspended"
    parts = (request.failure is not None, request.result is not None, bool(request.waits))
    if parts[0] != failed or (parts[1] and request.outcome != "succeeded") or parts[2] != waits:
        message = "`failure` goes with outcome failed, `result` with outcome succeeded, `waits` with outcome suspended"
        raise InvalidInputError("invalid-field", message, "$.outcome")
    if waits:
        require_waits(request.waits)
    if request.failure is None:
        return request
    return dataclasses.replace(request, failure=_mended_failure(request.failure))


def _mended_failure(failure: Failure) -> Failure:
    seconds = failure.retry_after_seconds
    return dataclasses.replace(
        failure,
        type=_clip(failure.type, MAX_MESSAGE_CHARS),
        message=_clip(failure.message, MAX_FAILURE_CHARS),
        traceback=_clip_head(failure.traceback, MAX_TRACEBACK_CHARS),
        retry_after_seconds=max(seconds, 0.0) if seconds is not None and math.isfinite(seconds) else None,
    )


def _clip(text: str, limit: int) -> str:
    clean = text.replace("\x00", "\ufffd")
    return clean if len(clean) <= limit else f"{clean[:limit]}… ({len(clean) - limit} characters cut)"


def _clip_head(text: str, limit: int) -> str:
    """Of a traceback the end tells most."""
    clean = text.replace("\x00", "\ufffd")
    return clean if len(clean) <= limit else f"({len(clean) - limit} characters cut) …{clean[-limit:]}"


def mended_left(left: list[str]) -> list[str]:
    """What an import left, as it can be kept and read; never all of what a hostile pod sends."""
    return [_clip(one, MAX_LEFT_CHARS) for one in left[:MAX_LEFT]]
