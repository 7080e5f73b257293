"""Checks of keywords that look at a value itself: types, enumerations, texts and numbers."""

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from fractions import Fraction
from typing import Final

from milepost.wire.values import JSON
from milepost_operator.domain.schema.walk import Check, Matcher, Misfit, Walk, canonical, shown, told

_ARTICLES: Final = {"object": "an object", "array": "a list", "string": "a text", "null": "null"}
TYPES: Final[dict[str, frozenset[type]]] = {
    "object": frozenset({dict}),
    "array": frozenset({list}),
    "string": frozenset({str}),
    "boolean": frozenset({bool}),
    "null": frozenset({type(None)}),
    "number": frozenset({int, float}),
    "integer": frozenset({int}),
}
_MANY: Final = 8
"""Allowed values that a message names."""


def of_type(names: list[str]) -> Check:
    plain = frozenset[type]().union(*(TYPES[name] for name in names))
    whole = "integer" in names
    words = " or ".join(_ARTICLES.get(name, f"{'an' if name[0] in 'aeiou' else 'a'} {name}") for name in names)

    def check(value: JSON, _walk: Walk) -> Misfit | None:
        if type(value) in plain or (whole and isinstance(value, float) and value.is_integer()):
            return None
        return told(f"is {shown(value)} and has to be {words}")

    return check


def one_of(allowed: list[JSON]) -> Check:
    free = Walk(1_000_000)
    known = {canonical(one, free) for one in allowed}
    flat = not any(isinstance(one, (dict, list)) for one in allowed)
    words = ", ".join(shown(one) for one in allowed[:_MANY]) + (", …" if len(allowed) > _MANY else "")
    wanted = words if len(allowed) == 1 else f"one of {words}"

    def check(value: JSON, walk: Walk) -> Misfit | None:
        fits = not (flat and isinstance(value, (dict, list))) and canonical(value, walk) in known
        return None if fits else told(f"is {shown(value)} and has to be {wanted}")

    return check


def matching(pattern: str, matcher: Matcher, weight: int) -> Check:
    def check(value: JSON, walk: Walk) -> Misfit | None:
        if not isinstance(value, str):
            return None
        walk.match(weight, value)
        return None if matcher(value) else told(f"is {shown(value)} and has to match {pattern!r}")

    return check


def length(least: int, most: int | None) -> Check:
    def check(value: JSON, _walk: Walk) -> Misfit | None:
        if not isinstance(value, str) or (len(value) >= least and (most is None or len(value) <= most)):
            return None
        limit = f"at least {least}" if len(value) < least else f"at most {most}"
        return told(f"has {len(value)} characters and has to have {limit}")

    return check


_BOUNDS: Final[dict[str, tuple[str, Callable[[float, float], bool]]]] = {
    "minimum": ("at least", lambda value, bound: value >= bound),
    "maximum": ("at most", lambda value, bound: value <= bound),
    "exclusiveMinimum": ("above", lambda value, bound: value > bound),
    "exclusiveMaximum": ("below", lambda value, bound: value < bound),
}


def bounded(keyword: str, bound: float) -> Check:
    words, holds = _BOUNDS[keyword]

    def check(value: JSON, _walk: Walk) -> Misfit | None:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or holds(value, bound):
            return None
        return told(f"is {value} and has to be {words} {bound}")

    return check


def multiple_of(unit: float) -> Check:
    exact = Fraction(repr(unit))

    def check(value: JSON, _walk: Walk) -> Misfit | None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        if (Fraction(repr(value)) / exact).denominator == 1:
            return None
        return told(f"is {value} and has to be a multiple of {unit}")

    return check


_CLOCK: Final = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])?"
_FORMATS: Final[Mapping[str, tuple[re.Pattern[str], Callable[[str], object], str]]] = {
    "date-time": (
        re.compile(rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}[T ]{_CLOCK}"),
        datetime.fromisoformat,
        "a time such as 2026-01-31T09:30:00Z",
    ),
    "date": (re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"), date.fromisoformat, "a date such as 2026-01-31"),
    "time": (re.compile(_CLOCK), time.fromisoformat, "a time of day such as 09:30:00"),
    "uuid": (
        re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
        str,
        "a UUID such as 6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    ),
}
"""The formats that are checked: what passes, `fromisoformat` reads too. The offset may be missing."""
_LONGEST: Final = 64


def of_format(name: str) -> Check | None:
    """None: it is not checked here."""
    known = _FORMATS.get(name)
    if known is None:
        return None
    form, read, words = known

    def check(value: JSON, _walk: Walk) -> Misfit | None:
        if not isinstance(value, str):
            return None
        if len(value) <= _LONGEST and form.fullmatch(value):
            try:
                read(value)
            except ValueError as error:
                return told(f"is {shown(value)}: {error}")
            return None
        return told(f"is {shown(value)} and has to be {words}")

    return check
