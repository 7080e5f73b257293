"""Python values to JSON text with type tags, and back: only what comes back equal is accepted."""

import json
from typing import Any, Final, NamedTuple

from milepost.errors import NotRecordableError, RecordTooLargeError
from milepost.refusal import RefusedError
from milepost.wire.values import INT_MAX, INT_MIN, JSON, MAX_DEPTH, biggest_path, member

HINTS: Final = {
    "bytearray": "make bytes of it",
    "range": "make a list of it",
    "complex": "record its two parts",
    "coroutine": "an await is missing",
    "_asyncio.Task": "an await is missing",
    "_asyncio.Future": "an await is missing",
    "generator": "make a list of it",
    "async_generator": "make a list of it",
    "map": "make a list of it",
    "filter": "make a list of it",
    "zip": "make a list of it",
    "dict_keys": "make a list of it",
    "dict_values": "make a list of it",
    "dict_items": "make a list of it",
    "_io.TextIOWrapper": "record what it holds, or where it is",
    "_io.BufferedReader": "record what it holds, or where it is",
    "_io.BufferedWriter": "record what it holds, or where it is",
}
TYPES_MAX: Final = 8000
"""Bytes of type tags beside a value: they travel in a header."""


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class Encoded(NamedTuple):
    """A value as it is recorded: JSON text, and the type tags (JSON text) that make it whole again, if it needs any."""

    text: str
    types: str | None = None


def pack(value: object) -> Encoded:
    """Encode a value made of JSON's own types (text keys, 64-bit ints, finite floats) and of those that tags tell.

    Those are datetime, date, time, timedelta, UUID, Decimal, bytes, tuple, set, frozenset, Enum, dataclass and pydantic
    models.

    Raises:
        NotRecordableError: anything else, with its place.
    """
    try:
        _check(value, 0, set())
    except RefusedError as refused:
        if refused.code != "not-json-type":
            raise _located(refused) from None
        return _pack_tagged(value)
    return Encoded(_dumped(value))


def _pack_tagged(value: object) -> Encoded:
    from milepost.tagging import dump  # noqa: PLC0415  (plain JSON never pays for it)

    try:
        data, node = dump(value, _check_leaf)
    except RefusedError as refused:
        raise _located(refused) from None
    if node is None:
        return Encoded(_dumped(data))
    types = json.dumps(node, separators=(",", ":"))
    if len(types) > TYPES_MAX:
        detail = "too many different types in it: make lists of one type, or record its parts in steps of their own"
        raise NotRecordableError("$", type(value).__qualname__, "too-many-types", detail)
    return Encoded(_dumped(data), types)


def pack_within(value: object, limit: int, what: str, advice: str = "") -> Encoded:
    """Encode a value of at most `limit` bytes. Raises RecordTooLargeError as well; `what` begins its message, `advice`
    ends it.
    """
    packed = pack(value)
    # a character has at most four bytes: most values need no second encoding to be counted
    if len(packed.text) * 4 > limit and (size := len(packed.text.encode())) > limit:
        raise RecordTooLargeError(what, size, limit, biggest_path(packed.text, limit), advice)
    return packed


def unpack(packed: Encoded, annotation: object = Any) -> Any:
    """Decode what `pack` made. Raises ValueMismatchError when it does not fit the annotation, or its class is gone."""
    return read(json.loads(packed.text), packed.types, annotation)


def read(data: JSON, types: str | None, annotation: object) -> Any:
    """Make decoded JSON the value it was, by its type tags (JSON text). Raises ValueMismatchError as `unpack` does."""
    if types is None and annotation is Any:
        return data
    from milepost import typed  # noqa: PLC0415  (tasks without annotations never pay for it)

    return typed.read(data, json.loads(types) if types is not None else None, annotation)


def _dumped(value: object) -> str:
    return _ENCODER.encode(value)


def _located(refused: RefusedError) -> NotRecordableError:
    path = "$"
    for part in reversed(refused.parts):
        path = member(path, part) if isinstance(part, str) else f"{path}[{part}]"
    return NotRecordableError(path, refused.kind, refused.code, refused.detail)


def _check_leaf(value: object) -> None:
    _check(value, 0, set())


def _check(value: object, depth: int, above: set[int]) -> None:
    kind = type(value)
    if value is None or kind is bool:
        return
    if kind is str:
        _check_text(value)  # type: ignore[arg-type]  # exactly str
    elif kind is int:
        if not INT_MIN <= value <= INT_MAX:  # type: ignore[operator]  # exactly int
            raise RefusedError("int", "int-too-large", "does not fit in 64 bits: record it as text")
    elif kind is float:
        if value - value != 0:  # type: ignore[operator]  # exactly float; NaN and the infinities differ from 0 here
            raise RefusedError("float", "not-finite", f"{value} is not JSON: use None or text")
    elif isinstance(value, (dict, list)) and kind in {dict, list}:
        _check_container(value, depth, above)
    else:
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        hint = HINTS.get(name, "record data: JSON, dates, UUID, Decimal, bytes, Enum, dataclasses, pydantic models")
        raise RefusedError(name, "not-json-type", f"a {name} can't be recorded: {hint}")


def _check_container(value: dict[object, object] | list[object], depth: int, above: set[int]) -> None:
    kind = type(value).__name__
    if id(value) in above:
        raise RefusedError(kind, "circular", "contains itself")
    if depth >= MAX_DEPTH:
        raise RefusedError(kind, "too-deep", f"nested more than {MAX_DEPTH} levels deep")
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
    except RefusedError as refused:
        refused.parts.append(part if isinstance(part, (str, int)) else repr(part))
        raise
    above.discard(id(value))


def _check_key(key: object) -> None:
    if type(key) is not str:
        kind = type(key).__name__
        raise RefusedError(kind, "bad-key", f"the key {key!r} is not text: JSON objects have text keys only")
    _check_text(key)


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise RefusedError("str", "nul-character", "U+0000 can't be kept: remove it or encode the bytes")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        detail = "a lone surrogate is not Unicode text: decode with errors='replace'"
        raise RefusedError("str", "lone-surrogate", detail) from None
