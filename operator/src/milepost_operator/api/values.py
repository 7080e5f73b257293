"""Values of users on the hot path: the rule is milepost.wire.values; here is a quick proof that a value keeps it."""

import asyncio
import json
import re
from typing import Final

import orjson

from milepost.wire.values import MAX_DEPTH, BadValue, biggest_path, check_text, member
from milepost_operator.domain.errors import InvalidInputError, TooLargeError

_BIG: Final = 65_536
"""Bytes of JSON text from which on a check would hold up the event loop for milliseconds."""
_DOUBTFUL: Final = re.compile(r"\\u0000|[0-9]{19}")
"""What orjson lets pass and our rule may not: U+0000, and integers near or beyond 64 bits."""
_KEY: Final = re.compile(r'"\s*:')
_DOUBT: Final = object()
_TWICE: Final = "\x00twice"
"""Holds, in an object that has a key twice, that key; no key that we take has a U+0000."""


def is_plainly_fine(text: str) -> bool:
    """True only for text that check_text would pass; False decides nothing. Several times as fast.

    orjson itself refuses what isn't JSON, NaN, Infinity, floats that overflow and lone surrogates.
    """
    return _fine_value(text) is not _DOUBT


def _fine_value(text: str) -> object:
    """The value of text that is plainly fine; else _DOUBT."""
    if _DOUBTFUL.search(text):
        return _DOUBT
    try:
        value = orjson.loads(text)
    except ValueError:
        return _DOUBT
    return value if text.count("[") + text.count("{") <= MAX_DEPTH or _depth_is_fine(value) else _DOUBT


def _depth_is_fine(root: object) -> bool:
    level = [root]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(v for v in value.values() if isinstance(v, dict | list))
            elif isinstance(value, list):
                below.extend(v for v in value if isinstance(v, dict | list))
        if not below:
            return True
        level = below
    return False


def _problem(text: str) -> BadValue | None:
    return None if is_plainly_fine(text) else check_text(text)


async def decoded(body: bytes, what: str) -> object:
    """The value of a JSON body that keeps the rule, and in which no object has a key twice. InvalidInputError."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError("not-json", f"{what} is not UTF-8: {error}", "$") from error
    return await asyncio.to_thread(_decoded, text, what) if len(text) > _BIG else _decoded(text, what)


def _decoded(text: str, what: str) -> object:
    value = _fine_value(text)
    bad = check_text(text) if value is _DOUBT else None
    if value is _DOUBT and bad is None:
        value = orjson.loads(text)
    bad = bad or repeated_key(text, value)
    if bad is not None:
        raise InvalidInputError(bad.code, f"{what}: {bad.detail}", bad.path)
    return value


def repeated_key(text: str, value: object) -> BadValue | None:
    """The first key of this JSON text that its object has twice: one value would be lost without a word."""
    # As many keys as there are in the text: none was lost. Text within strings can only make the count too high.
    if len(_KEY.findall(text)) == _keys_in(value):
        return None

    def take(pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            made[_TWICE] = next(name for name in names if names.count(name) > 1)
        return made

    path = _place(json.loads(text, object_pairs_hook=take))
    return None if path is None else BadValue("duplicate-key", path, f"the key {path} is there twice")


def _keys_in(root: object) -> int:
    count, level = 0, [root]
    while level:
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                count += len(value)
                below.extend(v for v in value.values() if isinstance(v, dict | list))
            elif isinstance(value, list):
                below.extend(v for v in value if isinstance(v, dict | list))
        level = below
    return count


def _place(root: object, path: str = "$") -> str | None:
    """Path of the first key that is marked as there twice."""
    if isinstance(root, dict):
        if _TWICE in root:
            return member(path, str(root[_TWICE]))
        return next((p for k, v in root.items() if (p := _place(v, member(path, k)))), None)
    if isinstance(root, list):
        return next((p for i, v in enumerate(root) if (p := _place(v, f"{path}[{i}]"))), None)
    return None


async def require_value(text: str, limit: int, code: str, what: str) -> None:
    """Raise InvalidInputError, or TooLargeError (`code`), with the JSON path in `what` that can't be kept.

    `limit`: bytes of UTF-8.
    """
    bad = await asyncio.to_thread(_problem, text) if len(text) > _BIG else _problem(text)
    if bad is not None:
        raise InvalidInputError(bad.code, f"{what}: {bad.detail}", bad.path)
    await require_size(text, limit, code, what)


async def require_size(text: str, limit: int, code: str, what: str, root: str = "$") -> None:
    """Raise TooLargeError with the biggest part of this JSON text, whose own path is `root`."""
    if len(text) * 4 <= limit:
        return
    size = len(text) if text.isascii() else len(text.encode())
    if size > limit:
        path = root + (await asyncio.to_thread(biggest_path, text, limit)).removeprefix("$")
        raise TooLargeError(code, f"{what} has {size} bytes; the limit is {limit}; the biggest part is {path}", path)
