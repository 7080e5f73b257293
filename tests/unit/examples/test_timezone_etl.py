"""The ETL's own promises, on the true file."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from milepost import FatalError
from milepost.testing import AsyncTaskRun, after, before, unacknowledged
from tests.examples import ZONES, module

etl = module("timezone-etl/task.py")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The true file's first lines: the whole of it takes seconds."""
    directory = tmp_path / "source"
    directory.mkdir()
    lines = list(etl.rows((ZONES / "zone1970.tab").read_text()))
    (directory / "zone1970.tab").write_text("# codes\n" + "\n".join([*lines[:4], *lines[-2:]]) + "\n")
    (directory / "iso3166.tab").write_text((ZONES / "iso3166.tab").read_text())
    return directory


def asked(source: Path, warehouse: Path) -> dict[str, object]:
    return {"source": str(source), "warehouse": str(warehouse), "batch": 2}


def contents(warehouse: Path) -> dict[str, list[tuple]]:
    with closing(sqlite3.connect(warehouse)) as db:
        return {table: sorted(db.execute(f"select * from {table}")) for table in ("zone", "zone_country", "change")}


async def test_it_loads_what_the_file_says(source: Path, tmp_path: Path):
    warehouse = tmp_path / "zones.db"
    result = await AsyncTaskRun(etl.main, asked(source, warehouse)).finish()
    assert (result["zones"], result["rejected"]) == (6, 0)
    assert result["changes"] == len(contents(warehouse)["change"])
    for zone, at, east, _, name in contents(warehouse)["change"]:
        local = datetime.fromisoformat(at).astimezone(ZoneInfo(zone))
        assert (local.utcoffset().total_seconds(), local.tzname()) == (east, name)


@pytest.mark.parametrize("point", [before, unacknowledged, after])
@pytest.mark.parametrize("place", [1, 3, 5])
async def test_wherever_it_dies_the_warehouse_is_the_same(source: Path, tmp_path: Path, point, place: int):
    whole, broken = tmp_path / "whole.db", tmp_path / "broken.db"
    wanted = await AsyncTaskRun(etl.main, asked(source, whole)).finish()
    run = AsyncTaskRun(etl.main, asked(source, broken))
    await run.attempt(crash=point(place))
    assert await run.finish() == wanted
    assert contents(broken) == contents(whole)
    with closing(sqlite3.connect(broken)) as db:
        assert db.execute("select count(*), sum(zones) from load").fetchone() == (3, 6)


async def test_a_second_run_loads_over_the_first(source: Path, tmp_path: Path):
    warehouse = tmp_path / "zones.db"
    first = await AsyncTaskRun(etl.main, asked(source, warehouse)).finish()
    assert await AsyncTaskRun(etl.main, asked(source, warehouse)).finish() == first


async def test_a_file_that_is_broken_is_not_loaded(source: Path, tmp_path: Path):
    table = source / "zone1970.tab"
    table.write_text(table.read_text() + "XX\tsomewhere\tEurope/Nowhere\n")
    warehouse = tmp_path / "zones.db"
    with pytest.raises(FatalError, match="'somewhere' are no coordinates"):
        await AsyncTaskRun(etl.main, asked(source, warehouse)).finish()
    assert not warehouse.exists()


@pytest.mark.parametrize(
    ("zone", "at", "east"),
    [
        ("Europe/Berlin", datetime(2021, 3, 28, 1, 0, tzinfo=UTC), 7200),
        ("Asia/Kathmandu", datetime(1985, 12, 31, 18, 30, tzinfo=UTC), 20700),
    ],
)
def test_a_change_is_found_to_the_second(zone: str, at: datetime, east: int):
    assert at.isoformat() in [one[1] for one in etl.changes(zone) if one[2] == east]


@pytest.mark.parametrize(
    ("text", "found"),
    [("+4230+00131", (42.5, 1.5167)), ("-690022+0393524", (-69.0061, 39.59)), ("+5130-00007", (51.5, -0.1167))],
)
def test_coordinates(text: str, found: tuple[float, float]):
    assert etl.degrees(text) == found
