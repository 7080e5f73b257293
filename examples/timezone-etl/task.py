"""An ETL: the world's time zones (a text file that systems hold) into a SQLite warehouse, batch by batch.

A batch is one recorded step: an attempt that dies goes on behind the last batch. Each batch is written in one
transaction together with its idempotency key, so that a batch whose record was lost on the way is not loaded twice.
"""

import hashlib
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypedDict
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from milepost import Context, FatalError, current, step, task

FIRST, END = datetime(1970, 1, 1, tzinfo=UTC), datetime(2038, 1, 1, tzinfo=UTC)
STRIDE = timedelta(days=7)  # a clock that is changed and changed back within a week is not noticed
MOST_REJECTED = 0.01
ISO_6709 = re.compile(r"([+-])(\d{2})(\d{2})(\d{2})?([+-])(\d{3})(\d{2})(\d{2})?")
SCHEMA = """
create table if not exists zone (name text primary key, latitude real not null, longitude real not null, note text);
create table if not exists zone_country (zone text, code text, country text not null, primary key (zone, code));
create table if not exists change (
  zone text, at text, seconds_east integer not null, summer_time integer not null, abbreviation text not null,
  primary key (zone, at)
);
create table if not exists load (key text primary key, zones integer not null, changes integer not null);
"""


@dataclass
class Zone:
    """A row of the source, parsed. `countries`: ISO 3166 codes; degrees north and east."""

    name: str
    countries: list[str]
    latitude: float
    longitude: float
    note: str


@dataclass
class Source:
    """The source as it was when the run began: later attempts may meet another version of the file."""

    sha256: str
    zones: list[Zone]
    countries: dict[str, str]
    rejected: list[str]


class Loaded(TypedDict):
    zones: int
    changes: int


class Report(TypedDict):
    """What is in the warehouse. `most_changes`: zones whose clocks were changed most often, with how often."""

    sha256: str
    rejected: int
    zones: int
    countries: int
    changes: int
    summer_time_zones: int
    most_changes: list[list[str | int]]


@step
def extract(directory: str) -> Source:
    """Read and parse the table of zones and the names of countries."""
    table = Path(directory, "zone1970.tab").read_bytes()
    zones: list[Zone] = []
    rejected: list[str] = []
    for line in rows(table.decode()):
        try:
            zones.append(parsed(line))
        except (ValueError, ZoneInfoNotFoundError) as error:
            rejected.append(f"{line[:80]}: {error}")
    countries = dict(line.split("\t") for line in rows(Path(directory, "iso3166.tab").read_text(encoding="utf-8")))
    return Source(hashlib.sha256(table).hexdigest(), zones, countries, rejected)


def rows(text: str) -> Iterator[str]:
    """Give the lines that are no comments."""
    return (line for line in text.splitlines() if line and not line.startswith("#"))


def parsed(line: str) -> Zone:
    """Read a line: codes, coordinates, name and, sometimes, a note, with tabs between. ValueError for any other."""
    codes, coordinates, name, note = [*line.split("\t"), ""][:4]
    latitude, longitude = degrees(coordinates)
    ZoneInfo(name)
    return Zone(name, codes.split(","), latitude, longitude, note)


def degrees(coordinates: str) -> tuple[float, float]:
    """Read ±DDMM±DDDMM or ±DDMMSS±DDDMMSS."""
    found = ISO_6709.fullmatch(coordinates)
    if not found:
        raise ValueError(f"{coordinates!r} are no coordinates")
    parts = [0 if part is None else part if part in "+-" else int(part) for part in found.groups()]
    north, east = (
        (-1 if sign == "-" else 1) * round(degree + minute / 60 + second / 3600, 4)
        for sign, degree, minute, second in (parts[:4], parts[4:])
    )
    return north, east


Change = tuple[str, str, int, bool, str]


def changes(zone: str) -> Iterator[Change]:
    """Give the zone's clock in 1970, and each change of it since: (zone, time, seconds east, summer time, name)."""
    clock = ZoneInfo(zone)
    yield change(zone, FIRST, clock)
    at, shown = FIRST, FIRST.astimezone(clock).utcoffset()
    while at < END:
        later = at + STRIDE
        if later.astimezone(clock).utcoffset() != shown:
            at = first_second(at, later, clock)
            shown = at.astimezone(clock).utcoffset()
            yield change(zone, at, clock)
        else:
            at = later


def first_second(before: datetime, after: datetime, clock: ZoneInfo) -> datetime:
    """Find the second at which the clock is changed."""
    shown = before.astimezone(clock).utcoffset()
    low, high = 0, int((after - before).total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        same = (before + timedelta(seconds=middle)).astimezone(clock).utcoffset() == shown
        low, high = (middle, high) if same else (low, middle)
    return before + timedelta(seconds=high)


def change(zone: str, at: datetime, clock: ZoneInfo) -> Change:
    local = at.astimezone(clock)
    east = int((local.utcoffset() or timedelta()).total_seconds())
    return zone, at.isoformat(), east, bool(local.dst()), local.tzname() or ""


@step(key=lambda number, *_: f"load/{number:02}")
def load(number: int, zones: list[Zone], countries: dict[str, str], warehouse: str) -> Loaded:  # noqa: ARG001
    """Transform a batch and write it, all of it or nothing. Its record holds counts: the rows are in the warehouse."""
    found = [one for zone in zones for one in changes(zone.name)]
    members = [(zone.name, code, countries[code]) for zone in zones for code in zone.countries]
    places = [(zone.name, zone.latitude, zone.longitude, zone.note) for zone in zones]
    key = current().idempotency_key
    with closing(opened(warehouse)) as db, db:
        db.execute("begin immediate")
        done = db.execute("select zones, changes from load where key = ?", (key,)).fetchone()
        if done:  # the attempt before died between this commit and its record
            return {"zones": done[0], "changes": done[1]}
        db.executemany("insert or replace into zone values (?, ?, ?, ?)", places)
        db.executemany("insert or replace into zone_country values (?, ?, ?)", members)
        db.executemany("insert or replace into change values (?, ?, ?, ?, ?)", found)
        db.execute("insert into load values (?, ?, ?)", (key, len(places), len(found)))
    return {"zones": len(places), "changes": len(found)}


def opened(warehouse: str) -> sqlite3.Connection:
    """Open the warehouse; transactions are begun by hand."""
    db = sqlite3.connect(warehouse, timeout=30, isolation_level=None)
    db.executescript(SCHEMA)
    return db


@step
def report(source: Source, warehouse: str, top: int) -> Report:
    """Ask the warehouse what it holds."""
    with closing(opened(warehouse)) as db:

        def one(query: str) -> int:
            return int(db.execute(query).fetchone()[0])

        often = "select zone, count(*) - 1 as n from change group by zone order by n desc, zone limit ?"
        return {
            "sha256": source.sha256,
            "rejected": len(source.rejected),
            "zones": one("select count(*) from zone"),
            "countries": one("select count(distinct code) from zone_country"),
            "changes": one("select count(*) from change"),
            "summer_time_zones": one("select count(distinct zone) from change where summer_time"),
            "most_changes": [list(row) for row in db.execute(often, (top,))],
        }


@task(id="timezone-etl")
async def main(
    ctx: Context, warehouse: str, source: str = "/usr/share/zoneinfo", batch: int = 24, top: int = 3
) -> Report:
    """Extract once, transform and load batch by batch, then check and report."""
    found = await extract(source)
    if len(found.rejected) > MOST_REJECTED * len(found.zones):
        raise FatalError(f"{len(found.rejected)} rows can't be read, the first: {found.rejected[0]}")
    loaded = 0
    for number, first in enumerate(range(0, len(found.zones), batch)):
        ctx.progress(first / len(found.zones), f"{first} of {len(found.zones)} zones")
        done = await load(number, found.zones[first : first + batch], found.countries, warehouse)
        loaded += done["zones"]
    if loaded != len(found.zones):
        raise FatalError(f"{loaded} zones were loaded of {len(found.zones)}")
    return await report(found, warehouse, top)
