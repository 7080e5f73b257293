"""The local protocol from the task's side, without I/O: what to send, what an answer means, how long to try."""

import time
from typing import Final
from urllib.parse import quote

from milepost.errors import (
    FencedError,
    MilepostError,
    NotRecordableError,
    ObjectStorageError,
    ProtocolError,
    RecordTooLargeError,
    RunLimitError,
    SettledError,
    SidecarLostError,
    StreamFullError,
)
from milepost.net.messages import Headers, Reply, TransportError, jitter, unique_id
from milepost.sdk.failed import recorded
from milepost.values import Encoded, unpack
from milepost.wire.local import FAILED, FINGERPRINT, TYPES, WRITE_ID
from milepost.wire.values import JSON

LOST_SECONDS: Final = 60.0
FIRST_PAUSE: Final = 0.02
LAST_PAUSE: Final = 1.0
BUSY: Final = 503


def step_target(key: str) -> str:
    """Give the path of a step's record."""
    return f"/v1/steps/{quote(key, safe='')}"


def checkpoint_target(key: str) -> str:
    """Give the path of a checkpoint."""
    return f"/v1/checkpoints/{quote(key, safe='')}"


def write_headers(types: str | None = None, *, failed: bool = False, fingerprint: str = "") -> Headers:
    """Give the headers of a write: made once, and sent again with each repetition.

    `types`: the value's type tags. `failed`: it is a step's error. `fingerprint`: of the step's call.
    """
    headers = [(WRITE_ID, unique_id()), ("Content-Type", "application/json")]
    if types is not None:
        headers.append((TYPES, types))
    if fingerprint:
        headers.append((FINGERPRINT, fingerprint))
    return [*headers, (FAILED, "true")] if failed else headers


def recorded_value(reply: Reply, annotation: object) -> object:
    """Give the value of GET /v1/steps/KEY. Raises the error that the step failed with."""
    if reply.headers.get(FAILED.lower()) == "true":
        raise recorded(reply.body)
    return unpack(Encoded(reply.body.decode(), reply.headers.get(TYPES.lower())), annotation)


def whole_number(answer: JSON, name: str) -> int:
    """Give a number of an answer. Raises MilepostError when it has none."""
    if isinstance(answer, dict) and isinstance(found := answer.get(name), int):
        return found
    raise MilepostError(f"the sidecar answered without {name!r}: {answer}")


def refusal(reply: Reply) -> MilepostError:
    """Turn an answer that is not a success into an error."""
    problem = reply.problem()
    code, detail = str(problem.get("code", "")), str(problem.get("detail", f"status {reply.status}"))
    path = str(problem.get("path", "$"))
    if code == "fenced":
        return FencedError(detail)
    if code == "settled":
        return SettledError(detail, str(problem.get("state", "")))
    if code == "run-limit":
        most, named = problem.get("most"), [str(problem.get(name, "")) for name in ("limit", "key")]
        return RunLimitError(detail, named[0], most if isinstance(most, int) else 0, named[1])
    if code == "stream-full":
        return StreamFullError(detail)
    if reply.status == 413:  # noqa: PLR2004
        size, limit = problem.get("size"), problem.get("limit")
        return RecordTooLargeError(
            "the value", size if isinstance(size, int) else 0, limit if isinstance(limit, int) else 0, path
        )
    if code == "storage-refused":
        return ObjectStorageError(detail)
    if reply.status == 422:  # noqa: PLR2004
        return NotRecordableError(path, "value", code, detail)
    return ProtocolError(f"{reply.status} {code}: {detail}")


class Patience:
    """How long to wait before a request is sent again; one for each request."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._pause = FIRST_PAUSE

    def broken(self, error: TransportError) -> float:
        """Give the seconds to wait after a broken exchange. Raises SidecarLostError after a minute of them."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            if error.reused:
                return 0.0
        if now - self._since > LOST_SECONDS:
            raise SidecarLostError(f"no sidecar for {LOST_SECONDS:.0f} s: {error}") from error
        self._pause = min(self._pause * 2, LAST_PAUSE)
        return self._pause * jitter()

    def busy(self, reply: Reply) -> float | None:
        """Give the seconds to wait when the sidecar is there but can't take the request now; None: it answered."""
        self._since = None
        return (reply.retry_after or LAST_PAUSE) * jitter() if reply.status == BUSY else None
