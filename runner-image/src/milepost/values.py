"""Python values to JSON text and back: only what comes back equal is accepted."""

import json
from typing import Final

from milepost.errors import NotRecordableError, RecordTooLargeError
from milepost.wire.values import INT_MAX, INT_MIN, JSON, MAX_DEPTH, biggest_path, member

HINTS: Final = {
    "tuple": "return a list",
    "set": "return a sorted list",
    "frozenset": "return a sorted list",
    "bytes": "encode it, for example with base64",
    "coroutine": "an await is missing",
    "generator": "make a list of it",
}


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class _RefusedError(Exception):
    def __init__(self, kind: str, code: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.code = code
        self.detail = detail
        self.parts: list[str | int] = []


def encode(value: object) -> str:
    """Encode a value made of dict (text keys), list, str, int (64 bits), float (finite), bool and None.

    Raises:
        NotRecordableError: anything else, with its place.
    """
    try:
        _check(value, 0, set())
    except _RefusedError as refused:
        path = "$"
        for part in reversed(refused.parts):
            path = member(path, part) if isinstance(part, str) else f"{path}[{part}]"
        raise NotRecordableError(path, refused.kind, refused.code, refused.detail) from None
    return _ENCODER.encode(value)


def encode_within(value: object, limit: int, what: str) -> str:
    """Encode a value of at most `limit` bytes. Raises RecordTooLargeError as well; `what` begins its message."""
    text = encode(value)
    # a character has at most four bytes: most values need no second encoding to be counted
    if len(text) * 4 > limit and (size := len(text.encode())) > limit:
        raise RecordTooLargeError(what, size, limit, biggest_path(text, limit))
    return text


def decode(text: str | bytes) -> JSON:
    """Decode what `encode` made."""
    value: JSON = json.loads(text)
    return value


def _check(value: object, depth: int, above: set[int]) -> None:
    kind = type(value)
    if value is None or kind is bool:
        return
    if kind is str:
        _check_text(value)  # type: ignore[arg-type]  # exactly str
    elif kind is int:
        if not INT_MIN <= value <= INT_MAX:  # type: ignore[operator]  # exactly int
            raise _RefusedError("int", "int-too-large", "does not fit in 64 bits: record it as text")
    elif kind is float:
        if value - value != 0:  # type: ignore[operator]  # exactly float; NaN and the infinities differ from 0 here
            raise _RefusedError("float", "not-finite", f"{value} is not JSON: use None or text")
    elif isinstance(value, (dict, list)) and kind in {dict, list}:
        _check_container(value, depth, above)
    else:
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        hint = HINTS.get(name, "record plain data instead: dict, list, str, int, float, bool or None")
        raise _RefusedError(name, "not-json-type", f"a {name} can't be recorded: {hint}")


def _check_container(value: dict[object, object] | list[object], depth: int, above: set[int]) -> None:
    kind = type(value).__name__
    if id(value) in above:
        raise _RefusedError(kind, "circular", "contains itself")
    if depth >= MAX_DEPTH:
        raise _RefusedError(kind, "too-deep", f"nested more than {MAX_DEPTH} levels deep")
    above.add(id(value))
    part: object = None
    try:
        if isinstance(value, list):
            for index, item in enumerate(value):
                part = index
                _check(item, depth + 1, above)
        else:
            for key, item in value.items():
                part = key
                _check_key(key)
                _check(item, depth + 1, above)
    except _RefusedError as refused:
        refused.parts.append(part if isinstance(part, (str, int)) else repr(part))
        raise
    above.discard(id(value))


def _check_key(key: object) -> None:
    if type(key) is not str:
        kind = type(key).__name__
        raise _RefusedError(kind, "bad-key", f"the key {key!r} is not text: JSON objects have text keys only")
    _check_text(key)


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise _RefusedError("str", "nul-character", "U+0000 can't be kept: remove it or encode the bytes")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        detail = "a lone surrogate is not Unicode text: decode with errors='replace'"
        raise _RefusedError("str", "lone-surrogate", detail) from None
