"""Cron expressions as text: what Debian's cron takes, and six fields (seconds first), `L`, `?` and `@daily` besides."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from milepost_operator.domain.cron import SUNDAY, Cron
from milepost_operator.domain.errors import InvalidInputError

MAX_CHARS: Final = 256

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_ALIASES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_ITEM: Final = re.compile(r"(\*|\w+)(?:-(\w+))?(?:/(\d+))?")


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of an expression: its name, the least and the greatest value, and names for values."""

    name: str
    low: int
    high: int
    names: Sequence[str] = ()


_FIELDS: Final = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _DAYS),
)


@lru_cache(maxsize=16_384)
def parse(expression: str) -> Cron:
    """Raises InvalidInputError `invalid-cron`, which says which field is wrong and what to write instead."""
    if len(expression) > MAX_CHARS:
        raise _bad(f"an expression has at most {MAX_CHARS} characters")
    text = expression.strip().lower()
    if text.startswith("@"):
        text = _alias(text)
    parts = text.split()
    if len(parts) == len(_FIELDS) - 1:
        parts.insert(0, "0")
    if len(parts) != len(_FIELDS):
        raise _bad(
            f"{expression!r} has {len(parts)} fields: write five (minute, hour, day of month, month, day of week),"
            " or six with the second first"
        )
    parts[3:6] = ["*" if part == "?" else part for part in parts[3:6]]
    last_day, parts[3] = _take_last_day(parts[3])
    values = [_values(field, part) for field, part in zip(_FIELDS, parts, strict=True)]
    cron = Cron(
        seconds=values[0],
        minutes=values[1],
        hours=values[2],
        days=frozenset(values[3]),
        last_day=last_day,
        months=values[4],
        weekdays=frozenset(value % SUNDAY for value in values[5]),
        either=not parts[3].startswith("*") and not parts[5].startswith("*"),
        elapsed=parts[1].startswith("*") or parts[2].startswith("*"),
    )
    _require_some_day(cron)
    return cron


def _alias(text: str) -> str:
    if text == "@reboot":
        raise _bad("'@reboot' has no meaning here: there is no boot to wait for")
    found = _ALIASES.get(text)
    if found is None:
        near = difflib.get_close_matches(text, _ALIASES, 1, 0.5) or ["@daily"]
        raise _bad(f"{text!r} is not known: did you mean {near[0]!r}? There are {', '.join(_ALIASES)}")
    return found


def _take_last_day(part: str) -> tuple[bool, str]:
    """`L` in the day of month is the month's last day; what else the list names is left."""
    items = part.split(",")
    others = [item for item in items if item != "l"]
    return len(others) < len(items), ",".join(others)


def _values(field: _Field, part: str) -> tuple[int, ...]:
    if field.name == "day of month" and not part:
        return ()
    found: set[int] = set()
    for item in part.split(","):
        found.update(_range(field, item))
    return tuple(sorted(found))


def _range(field: _Field, item: str) -> range:
    match = _ITEM.fullmatch(item)
    if match is None or (match[1] == "*" and match[2] is not None):
        raise _bad(
            f"{field.name}: {item!r} is not a value: write a number from {field.low} to {field.high}, a range (1-5),"
            " a list (1,3), every (*) or a step (*/2)"
        )
    if match[1] == "*":
        low, high = field.low, field.high
    else:
        low = _value(field, match[1])
        high = _value(field, match[2]) if match[2] else field.high if match[3] else low
        if match[2] and field.names == _DAYS and high == 0 < low:
            high = SUNDAY
    if low > high:
        around = f"{low}-{field.high},{field.low}-{high}"
        raise _bad(f"{field.name}: the range {item!r} is empty: to go round the end write {around!r}")
    step = int(match[3] or 1)
    if not 1 <= step <= max(1, high - low):
        raise _bad(
            f"{field.name}: a step of {step} in {item!r} never comes to a second value between {low} and {high}:"
            f" write {str(low)!r}, or a step from 1 to {max(1, high - low)}"
        )
    return range(low, high + 1, step)


def _value(field: _Field, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        if text in field.names:
            return field.names.index(text) + (field.low if field.names == _MONTHS else 0)
        near = difflib.get_close_matches(text, field.names, 1, 0.5) if field.names else []
        hint = f"did you mean {near[0]!r}?" if near else f"write a number from {field.low} to {field.high}"
        raise _bad(f"{field.name}: {text!r} is not a value: {hint}")
    number = int(text[:9])
    if not field.low <= number <= field.high:
        raise _bad(f"{field.name}: {text[:20]} is not from {field.low} to {field.high}")
    return number


def _require_some_day(cron: Cron) -> None:
    if cron.last_day or cron.either or not cron.days:
        return
    if any(min(cron.days) <= _LONGEST[month - 1] for month in cron.months):
        return
    months = ", ".join(_MONTHS[month - 1].capitalize() for month in cron.months)
    raise _bad(f"no day {min(cron.days)} ever comes in {months}: the last day of a month is 'L'")


def _bad(message: str) -> InvalidInputError:
    return InvalidInputError("invalid-cron", f"cron: {message}")
