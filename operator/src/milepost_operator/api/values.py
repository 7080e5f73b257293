"""Values of users on the hot path: the rule is milepost.wire.values; here is a quick proof that a value keeps it."""

import asyncio
import re
from typing import Final

import orjson

from milepost.wire.values import MAX_DEPTH, BadValue, biggest_path, check_text
from milepost_operator.domain.errors import InvalidInputError, TooLargeError

_BIG: Final = 65_536
"""Bytes of JSON text from which on a check would hold up the event loop for milliseconds."""
_DOUBTFUL: Final = re.compile(r"\\u0000|[0-9]{19}")
"""What orjson lets pass and our rule may not: U+0000, and integers near or beyond 64 bits."""


def is_plainly_fine(text: str) -> bool:
    """True only for text that check_text would pass; False decides nothing. Several times as fast.

    orjson itself refuses what isn't JSON, NaN, Infinity, floats that overflow and lone surrogates.
    """
    if _DOUBTFUL.search(text):
        return False
    try:
        value = orjson.loads(text)
    except ValueError:
        return False
    return text.count("[") + text.count("{") <= MAX_DEPTH or _depth_is_fine(value)


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
