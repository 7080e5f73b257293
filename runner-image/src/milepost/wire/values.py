"""Which JSON we keep: the one rule of sdk, sidecar and api, with the place of what breaks it.

RFC 8259 text that Postgres and every JSON reader give back unchanged (RFC 7493, I-JSON): no NaN or Infinity, no
U+0000, no lone surrogate, integers within 64 bits, at most 100 levels deep.
"""

import json
from dataclasses import dataclass, field
from typing import Final, NoReturn

MAX_DEPTH: Final = 100
INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1

NO_OBJECTS: Final = "larger values need object storage, and this cluster has none (chart value objectStorage.bucket)"
"""What to do about a value above the limit of a record or result."""

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


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def member(path: str, key: str) -> str:
    """Extend a JSON path by an object's key."""
    return f"{path}.{key}" if key.isidentifier() else f"{path}[{json.dumps(key)}]"


def check_text(text: str) -> BadValue | None:
    """Say what keeps this JSON text from being recorded; None when it can be."""
    try:
        value: JSON = _DECODER.decode(text)
    except _NotFiniteError as error:
        return BadValue("not-finite", "$", f"{error} is not JSON: use null or a string")
    except RecursionError:
        return BadValue("too-deep", "$", f"nested more than {MAX_DEPTH} levels deep")
    except ValueError as error:
        return BadValue("not-json", "$", f"not JSON: {error}")
    found = _problem(value, 0)
    return found.located() if found else None


@dataclass(slots=True)
class _Found:
    code: str
    detail: str
    parts: list[str | int] = field(default_factory=list)
    """The way to it, innermost first: built only once there is a problem."""

    def located(self) -> BadValue:
        path = "$"
        for part in reversed(self.parts):
            path = member(path, part) if isinstance(part, str) else f"{path}[{part}]"
        return BadValue(self.code, path, self.detail)


def _problem(value: JSON, depth: int) -> _Found | None:
    if isinstance(value, str):
        return _string_problem(value)
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)):
        return _number_problem(value)
    if depth == MAX_DEPTH:
        return _Found("too-deep", f"nested more than {MAX_DEPTH} levels deep")
    return _list_problem(value, depth) if isinstance(value, list) else _object_problem(value, depth)


def _list_problem(items: list[JSON], depth: int) -> _Found | None:
    for index, item in enumerate(items):
        if found := _problem(item, depth + 1):
            found.parts.append(index)
            return found
    return None


def _object_problem(members: dict[str, JSON], depth: int) -> _Found | None:
    for key, item in members.items():
        if found := _string_problem(key) or _problem(item, depth + 1):
            found.parts.append(key)
            return found
    return None


def _number_problem(number: float) -> _Found | None:
    if isinstance(number, int) and not INT_MIN <= number <= INT_MAX:
        return _Found("int-too-large", f"{number} does not fit in 64 bits: record it as a string")
    if number in (float("inf"), float("-inf")):
        return _Found("not-finite", "the number is too large for a float")
    return None


def _string_problem(text: str) -> _Found | None:
    if "\x00" in text:
        return _Found("nul-character", "U+0000 can't be kept in Postgres: remove it or encode the bytes")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return _Found("lone-surrogate", "a lone surrogate is not Unicode text: decode with errors='replace'")
    return None


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
