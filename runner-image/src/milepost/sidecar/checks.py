"""What a request of the local protocol must be like; every refusal says what to change."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, get_args
from urllib.parse import unquote_to_bytes

from milepost.net.messages import ProblemError
from milepost.wire.local import USAGE
from milepost.wire.pod import (
    MAX_KEY_BYTES,
    MAX_WAITS,
    MAX_WRITE_ID_CHARS,
    Evidence,
    Failure,
    FailureKind,
    RecordKind,
    Wait,
    WaitKind,
)
from milepost.wire.values import JSON, NO_OBJECTS, biggest_path, check_text

MAX_MESSAGE: Final = 1000
MAX_RETIRE: Final = 32
MAX_LEFT: Final = 20
MAX_LEFT_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """A runner asks for its next attempt: which one it has ended, and what POST /next of the api wants to know."""

    run_id: str
    attempt: int
    retire: str | None
    parent_bytes: int


def key(encoded: str) -> str:
    """Decode the key of a record from a path."""
    try:
        text = unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError as error:
        raise ProblemError(400, "bad-key", f"the key is not UTF-8: {error}") from error
    if not 1 <= len(text.encode()) <= MAX_KEY_BYTES or "\x00" in text:
        raise ProblemError(400, "bad-key", f"a key has 1 to {MAX_KEY_BYTES} bytes of UTF-8 and no U+0000")
    return text


def write_id(text: str) -> str:
    """Check a write id."""
    if not 1 <= len(text) <= MAX_WRITE_ID_CHARS or not text.isprintable():
        raise ProblemError(400, "bad-write-id", f"a write id has 1 to {MAX_WRITE_ID_CHARS} printable characters")
    return text


def flag(text: str, kind: RecordKind) -> bool:
    """Check Milepost-Failed."""
    if text not in {"true", "false"} or (text == "true" and kind != "step"):
        raise ProblemError(400, "bad-failed", "Milepost-Failed is true or false, and goes with a step")
    return text == "true"


def sequence(text: str) -> int:
    """Check the `after` of a read."""
    if not text.isdecimal():
        raise ProblemError(400, "bad-after", f"after must be a number, not {text!r}")
    return int(text)


def value(body: bytes, limit: int, what: str, objects: int | None = None) -> str:
    """Check a JSON value to be kept and give it as text. `limit` in bytes.

    `objects`: the most bytes of a larger value of its kind; 0: the cluster has no place for it; None: no cluster has.
    """
    text = _text(body)
    if len(body) > limit:
        _refuse_bad(text)
        path = biggest_path(text, limit)
        detail = f"the {what} has {len(body)} bytes, {limit} is the most; the biggest part is {path}"
        if objects is not None:
            detail += f"; {'send it with its Content-Length' if objects else NO_OBJECTS}"
        members: dict[str, JSON] = {"path": path, "size": len(body), "limit": limit}
        raise ProblemError(413, "too-large", detail, members=members)
    _refuse_bad(text)
    return text


def _refuse_bad(text: str) -> None:
    if bad := check_text(text):
        raise ProblemError(422, bad.code, f"{bad.path}: {bad.detail}", members={"path": bad.path})


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise ProblemError(422, "not-json", f"not UTF-8: {error}", members={"path": "$"}) from error


def progress(body: bytes) -> tuple[float | None, str | None]:
    """Check a progress report."""
    data = _object(body, {"fraction", "message"})
    fraction, message = data.get("fraction"), data.get("message")
    if fraction is not None:
        _ask(isinstance(fraction, (int, float)) and not isinstance(fraction, bool), "fraction", "a number or null")
        _ask(isinstance(fraction, (int, float)) and 0 <= fraction <= 1, "fraction", "from 0 to 1")
    _ask(message is None or isinstance(message, str), "message", "text or null")
    _ask(message is None or len(str(message)) <= MAX_MESSAGE, "message", f"at most {MAX_MESSAGE} characters long")
    return (None if fraction is None else float(str(fraction)), None if message is None else str(message))


def failure(body: bytes) -> tuple[Failure, Evidence]:
    """Check a failure; members left out have their defaults, `kind` is `user`."""
    names = {f.name for f in fields(Failure)} | {"evidence"}
    data = _object(body, names)
    kind = data.get("kind", "user")
    _ask(kind in get_args(FailureKind), "kind", f"one of {', '.join(get_args(FailureKind))}")
    for name in ("type", "message", "traceback"):
        _ask(isinstance(data.get(name, ""), str), name, "text")
    retryable, after = data.get("retryable"), data.get("retry_after_seconds")
    _ask(retryable is None or isinstance(retryable, bool), "retryable", "true, false or null")
    _ask(after is None or (isinstance(after, (int, float)) and after >= 0), "retry_after_seconds", "seconds or null")
    found = Failure(
        kind=kind,  # type: ignore[arg-type]  # checked above
        type=str(data.get("type") or "Error"),
        message=str(data.get("message") or ""),
        traceback=str(data.get("traceback") or ""),
        retryable=retryable if isinstance(retryable, bool) else None,
        retry_after_seconds=float(after) if isinstance(after, (int, float)) else None,
    )
    return found, _evidence(data.get("evidence"))


def waits(body: bytes) -> list[Wait]:
    """Check the waits of a suspension: their shape; which of them make sense is the api's to say."""
    listed = _object(body, {"waits"}).get("waits")
    _ask(isinstance(listed, list) and 1 <= len(listed) <= MAX_WAITS, "waits", f"a list of 1 to {MAX_WAITS}")
    return [_wait(wait, f"waits[{n}]") for n, wait in enumerate(listed if isinstance(listed, list) else [])]


def asked(body: bytes) -> Asked:
    """Check what a runner says as it asks for its next attempt."""
    data = _object(body, {"retire", "parent_bytes", "run_id", "attempt"})
    retire, size, run_id, attempt = (data.get(name) for name in ("retire", "parent_bytes", "run_id", "attempt"))
    _ask(retire is None or (isinstance(retire, str) and 1 <= len(retire) <= MAX_RETIRE), "retire", "a word or null")
    _ask(size is None or (type(size) is int and size >= 0), "parent_bytes", "a number of bytes")
    _ask(isinstance(run_id, str), "run_id", "that of the attempt that has ended")
    _ask(type(attempt) is int, "attempt", "the number of the attempt that has ended")
    return Asked(
        str(run_id),
        attempt if isinstance(attempt, int) else 0,
        retire if isinstance(retire, str) else None,
        size if isinstance(size, int) else 0,
    )


def left(body: bytes) -> list[str]:
    """Check what the import is said to have left; no more of it than anybody would read."""
    told = _object(body, {"left"}).get("left")
    _ask(isinstance(told, list) and bool(told) and all(isinstance(one, str) for one in told), "left", "a list of text")
    return [str(one)[:MAX_LEFT_CHARS] for one in (told if isinstance(told, list) else [])[:MAX_LEFT]]


def _wait(data: JSON, place: str) -> Wait:
    names = [f.name for f in fields(Wait)]
    if not isinstance(data, dict) or not data.keys() <= set(names):
        raise ProblemError(422, "bad-member", f"{place} must be an object of {', '.join(names)}")
    kind, seconds = data.get("kind"), data.get("seconds")
    _ask(isinstance(data.get("key"), str), f"{place}.key", "text")
    _ask(kind in get_args(WaitKind), f"{place}.kind", f"one of {', '.join(get_args(WaitKind))}")
    for name in ("name", "until"):
        _ask(data.get(name) is None or isinstance(data[name], str), f"{place}.{name}", "text or null")
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    _ask(seconds is None or number, f"{place}.seconds", "a number or null")
    return Wait(**data)  # type: ignore[arg-type]  # checked above


def usage(text: str | None) -> Evidence:
    """Check the header Milepost-Usage."""
    if text is None:
        return Evidence()
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ProblemError(422, "bad-evidence", f"{USAGE} is no JSON: {error}") from error
    return _evidence(data)


def _evidence(data: JSON) -> Evidence:
    if data is None:
        return Evidence()
    names = {f.name for f in fields(Evidence)}
    if not isinstance(data, Mapping) or not data.keys() <= names:
        raise ProblemError(422, "bad-evidence", f"evidence must be an object of {', '.join(sorted(names))}")
    for name, number in data.items():
        _ask(number is None or type(number) is int, f"evidence.{name}", "a whole number")
    return Evidence(**{name: number for name, number in data.items() if number is not None})  # type: ignore[arg-type]


def _object(body: bytes, names: set[str]) -> dict[str, JSON]:
    text = _text(body)
    _refuse_bad(text)
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ProblemError(422, "not-an-object", "the body must be a JSON object", members={"path": "$"})
    if unknown := sorted(data.keys() - names):
        detail = f"unknown members: {', '.join(unknown)}; known are {', '.join(sorted(names))}"
        raise ProblemError(422, "unknown-member", detail, members={"path": f"$.{unknown[0]}"})
    return data


def _ask(holds: bool, name: str, must_be: str) -> None:
    if not holds:
        raise ProblemError(422, "bad-member", f"{name} must be {must_be}", members={"path": f"$.{name}"})
