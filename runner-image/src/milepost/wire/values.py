"""Which JSON we keep: the one rule of sdk, sidecar and api, with the place of what breaks it.

RFC 8259 text that Postgres and every JSON reader give back unchanged (RFC 7493, I-JSON): no NaN or Infinity, no
U+0000, no lone surrogate, integers within 64 bits, at most 100 levels deep.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

MAX_DEPTH: Final = 100
INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1

JSON = dict[str, "JSON"] | list["JSON"] | str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class BadValue:
    """`code`: not-json, not-finite, int-too-large, nul-character, lone-surrogate, too-deep. `path`: a JSON path."""

    code: str
    path: str
    detail: str


class _NotFiniteError(ValueError):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _NotFiniteError(name)


def member(path: str, key: str) -> str:
    """Extend a JSON path by an object's key."""
    return f"{path}.{key}" if key.isidentifier() else f"{path}[{json.dumps(key)}]"


def check_text(text: str) -> BadValue | None:
    """Say what keeps this JSON text from being recorded; None when it can be."""
    try:
        value: JSON = json.loads(text, parse_constant=_refuse_constant)
    except _NotFiniteError as error:
        return BadValue("not-finite", "$", f"{error} is not JSON: use null or a string")
    except RecursionError:
        return BadValue("too-deep", "$", f"nested more than {MAX_DEPTH} levels deep")
    except ValueError as error:
        return BadValue("not-json", "$", f"not JSON: {error}")
    return next(_problems(value), None)


def _problems(root: JSON) -> Iterator[BadValue]:
    stack: list[tuple[JSON, str, int]] = [(root, "$", 0)]
    while stack:
        value, path, depth = stack.pop()
        if depth > MAX_DEPTH:
            yield BadValue("too-deep", path, f"nested more than {MAX_DEPTH} levels deep")
        elif isinstance(value, str):
            yield from _string_problems(value, path)
        elif isinstance(value, bool) or value is None:
            continue
        elif isinstance(value, int):
            if not INT_MIN <= value <= INT_MAX:
                yield BadValue("int-too-large", path, f"{value} does not fit in 64 bits: record it as a string")
        elif isinstance(value, float):
            if value in (float("inf"), float("-inf")):
                yield BadValue("not-finite", path, "the number is too large for a float")
        elif isinstance(value, list):
            stack.extend((item, f"{path}[{i}]", depth + 1) for i, item in enumerate(value))
        else:
            for key, item in value.items():
                yield from _string_problems(key, member(path, key))
                stack.append((item, member(path, key), depth + 1))


def _string_problems(text: str, path: str) -> Iterator[BadValue]:
    if "\x00" in text:
        yield BadValue("nul-character", path, "U+0000 can't be kept in Postgres: remove it or encode the bytes")
    if any("\ud800" <= c <= "\udfff" for c in text):
        yield BadValue("lone-surrogate", path, "a lone surrogate is not Unicode text: decode with errors='replace'")


def biggest_path(text: str, limit: int) -> str:
    """The deepest JSON path whose own text is over half of `limit` bytes: what to make smaller."""
    value: JSON = json.loads(text)
    path = "$"
    while True:
        items: list[tuple[str, JSON]]
        if isinstance(value, dict):
            items = [(member(path, k), v) for k, v in value.items()]
        elif isinstance(value, list):
            items = [(f"{path}[{i}]", v) for i, v in enumerate(value)]
        else:
            return path
        sized = [(len(json.dumps(v)), p, v) for p, v in items]
        if not sized:
            return path
        size, deeper, inner = max(sized, key=lambda s: s[0])
        if size * 2 <= limit:
            return path
        path, value = deeper, inner
