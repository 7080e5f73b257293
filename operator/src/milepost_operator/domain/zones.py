"""Time zones as stretches of one offset, in whole seconds: what wall clocks do, made plain for arithmetic.

A wall-clock time is what a clock on the wall shows, as seconds since it would have shown 1970-01-01T00:00:00.
"""

import difflib
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from milepost_operator.domain.errors import InvalidInputError

DAY: Final = 86_400
LAST_YEAR: Final = 2200
"""No slot is looked for beyond this."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_PLACES: Final = frozenset({"localtime", "Factory", "posixrules"})
_PROBE: Final = DAY // 2
"""Two changes of one zone are further apart than this."""


class Stretch(NamedTuple):
    """From `start` until before `end` (Unix seconds) the wall shows Unix time + `offset`.

    `reached`: the wall-clock time up to which the wall had come before, so that what is below it, here, is shown for
    the second time, and what is between it and start + offset is never shown.
    """

    start: int
    end: int
    offset: int
    reached: int


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """The names of the IANA database that are here."""
    return frozenset(available_timezones() - _NOT_PLACES)


@lru_cache(maxsize=1024)
def zone_of(name: str) -> ZoneInfo:
    """Raises InvalidInputError `unknown-time-zone` with the nearest name that there is."""
    if name in zone_names():
        return ZoneInfo(name)
    folded = {known.casefold(): known for known in zone_names()}
    near = folded.get(name.casefold())
    if near is None:
        places = {known.rpartition("/")[2]: known for known in sorted(folded)}
        wanted = name.casefold().replace(" ", "_")
        close = difflib.get_close_matches(wanted, list(folded), 1, 0.7)
        by_place = difflib.get_close_matches(wanted.rpartition("/")[2], list(places), 1, 0.8)
        near = folded[close[0]] if close else folded[places[by_place[0]]] if by_place else None
    hint = f"did you mean {near!r}?" if near else "use a name of the IANA database, such as 'Europe/Berlin' or 'UTC'"
    raise InvalidInputError("unknown-time-zone", f"no time zone is called {name[:64]!r}: {hint}")


def offset_at(zone: ZoneInfo, unix: int) -> int:
    """Seconds east of UTC."""
    offset = datetime.fromtimestamp(unix, zone).utcoffset()
    if offset is None:
        raise ValueError(f"{zone.key} has no offset at {unix}")
    return offset.days * DAY + offset.seconds


@lru_cache(maxsize=4096)
def _changes(name: str, year: int) -> tuple[tuple[int, int, int], ...]:
    """(when, offset before, offset from then on) of a year, in order. Found by probing: zoneinfo tells no more."""
    zone = zone_of(name)
    here, stop = _new_year(year), _new_year(year + 1)
    found = []
    before = offset_at(zone, here - 1)
    at = here - 1
    while at < stop - 1:
        then = min(at + _PROBE, stop - 1)
        after = offset_at(zone, then)
        if after != before:
            low, high = at, then
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset_at(zone, middle) == before else (low, middle)
            found.append((high, before, after))
        at, before = then, after
    return tuple(found)


@lru_cache(maxsize=4096)
def _stretches(name: str, year: int) -> tuple[Stretch, ...]:
    """Those that begin in `year`, or hold its first second, cut at its last."""
    start, stop = _new_year(year), _new_year(year + 1)
    changes, earlier = _changes(name, year), _changes(name, year - 1)
    offset = changes[0][1] if changes else offset_at(zone_of(name), start)
    reached = start + offset
    if earlier:
        when, before, _ = earlier[-1]
        reached = max(reached, when + before)
    made = []
    for when, before, after in changes:
        if when > start:
            made.append(Stretch(start, when, offset, reached))
        reached = max(reached, when + before)
        start, offset = when, after
    made.append(Stretch(start, stop, offset, reached))
    return tuple(made)


def stretches_from(name: str, unix: int) -> Iterator[Stretch]:
    """The stretch that holds `unix` and those after it. The turn of a year cuts a stretch in two."""
    year = datetime.fromtimestamp(unix, UTC).year
    found = _stretches(name, year)
    index = bisect_right(found, unix, key=lambda one: one.start) - 1
    yield from found[max(index, 0) :]
    for later in range(year + 1, LAST_YEAR):
        yield from _stretches(name, later)


def stretches_back(name: str, unix: int) -> Iterator[Stretch]:
    """The stretch that holds `unix` and those before it, down to 1970."""
    year = datetime.fromtimestamp(unix, UTC).year
    found = _stretches(name, year)
    index = bisect_right(found, unix, key=lambda one: one.start) - 1
    yield from reversed(found[: max(index, 0) + 1])
    for earlier in range(year - 1, 1970, -1):
        yield from reversed(_stretches(name, earlier))


def _new_year(year: int) -> int:
    return int((datetime(year, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds())
