"""Cron: what is refused and how, what fires when, and against a slow walk of every zone's changes of ten years."""

import random
from calendar import monthrange
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from milepost_operator.domain.cron import slot_name
from milepost_operator.domain.crontab import parse
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.zones import zone_names, zone_of

SEED = 20261101
YEARS = (2026, 2036)
WINDOW, PROBE = 150, 4 * 1440
"""Minutes."""


def unix(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def slots(expression: str, zone: str, since: str, count: int) -> list[str]:
    """What comes after a time (UTC): each slot's name without its zone."""
    at, found = unix(since), []
    for _ in range(count):
        slot = parse(expression).after(at, zone)
        assert slot is not None
        found.append(slot_name(slot, zone).partition("[")[0])
        at = slot
    return found


@pytest.mark.parametrize(
    ("expression", "zone", "since", "expected"),
    [
        # a fixed time that comes twice: at the first of it
        ("30 1 * * *", "America/New_York", "2026-11-01T00:00", ["2026-11-01T01:30:00", "2026-11-02T01:30:00"]),
        ("0 * 1 11 *", "America/New_York", "2026-11-01T04:30", ["2026-11-01T01:00:00", "2026-11-01T01:00:00-05:00"]),
        # `*` goes by elapsed time, through a fold and over a gap
        (
            "*/30 * * * *",
            "America/New_York",
            "2026-11-01T05:00",
            ["2026-11-01T01:30:00", "2026-11-01T01:00:00-05:00", "2026-11-01T01:30:00-05:00", "2026-11-01T02:00:00"],
        ),
        ("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:00", ["2026-03-29T01:30:00", "2026-03-29T03:00:00"]),
        ("*/15 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["2026-03-30T02:00:00"]),
        # a gap: once at its end, for all times that it leaves out
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["2026-03-29T03:00:00", "2026-03-30T02:30:00"]),
        ("0,30 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00", ["2026-03-29T03:00:00", "2026-03-29T03:30:00"]),
        ("59 59 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["2026-03-29T03:00:00", "2026-03-30T02:59:59"]),
        # half an hour
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00", ["2026-10-04T02:30:00", "2026-10-05T02:15:00"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00", ["2026-04-05T01:45:00", "2026-04-06T01:45:00"]),
        (
            "*/15 * * * *",
            "Australia/Lord_Howe",
            "2026-04-04T14:40",
            ["2026-04-05T01:45:00", "2026-04-05T01:30:00+10:30", "2026-04-05T01:45:00+10:30", "2026-04-05T02:00:00"],
        ),
        # Ramadan: Morocco goes back in February and forward in March
        ("30 2 * * *", "Africa/Casablanca", "2026-02-14T12:00", ["2026-02-15T02:30:00", "2026-02-16T02:30:00"]),
        ("30 2 * * *", "Africa/Casablanca", "2026-03-21T12:00", ["2026-03-22T03:00:00", "2026-03-23T02:30:00"]),
        # a change at midnight, and a day that was left out whole
        ("0 0 * * *", "Asia/Beirut", "2026-03-28T12:00", ["2026-03-29T01:00:00", "2026-03-30T00:00:00"]),
        ("0 12 * * *", "Pacific/Apia", "2011-12-29T23:00", ["2011-12-31T00:00:00", "2011-12-31T12:00:00"]),
        # calendars
        ("0 0 29 2 *", "UTC", "2096-03-01T00:00", ["2104-02-29T00:00:00"]),
        ("0 0 L * *", "UTC", "2028-01-31T00:00", ["2028-02-29T00:00:00", "2028-03-31T00:00:00"]),
        ("0 0 13 * fri", "UTC", "2026-11-01T00:00", ["2026-11-06T00:00:00", "2026-11-13T00:00:00"]),
        ("0 0 */5 * mon", "UTC", "2026-11-01T00:00", ["2026-11-16T00:00:00", "2026-12-21T00:00:00"]),
        ("0 9 * * mon-fri", "UTC", "2026-11-20T09:00", ["2026-11-23T09:00:00"]),
        ("0 0 * * 7", "UTC", "2026-11-20T09:00", ["2026-11-22T00:00:00"]),
        ("0 0 * * fri-sun", "UTC", "2026-11-21T09:00", ["2026-11-22T00:00:00", "2026-11-27T00:00:00"]),
        ("5/20 8-10/2 ? jan,dec *", "UTC", "2026-11-20T09:00", ["2026-12-01T08:05:00", "2026-12-01T08:25:00"]),
        ("*/20 * * * * *", "UTC", "2026-11-20T09:00", ["2026-11-20T09:00:20", "2026-11-20T09:00:40"]),
        ("@hourly", "Asia/Kolkata", "2026-11-20T09:00", ["2026-11-20T15:00:00"]),
        ("@weekly", "UTC", "2026-11-20T09:00", ["2026-11-22T00:00:00"]),
    ],
)
def test_slots(expression: str, zone: str, since: str, expected: list[str]) -> None:
    assert slots(expression, zone, since, len(expected)) == expected


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("61 * * * *", "minute: 61 is not from 0 to 59"),
        ("0 24 * * *", "hour: 24 is not from 0 to 23"),
        ("0 0 0 * *", "day of month: 0 is not from 1 to 31"),
        ("0 0 31 2 *", "no day 31 ever comes in Feb: the last day of a month is 'L'"),
        ("0 0 31 2,4,6,9,11 *", "no day 31 ever comes in Feb, Apr, Jun, Sep, Nov"),
        ("0 22-6 * * *", "hour: the range '22-6' is empty: to go round the end write '22-23,0-6'"),
        ("*/90 * * * *", "a step of 90 in '*/90' never comes to a second value"),
        ("*/0 * * * *", "a step of 0"),
        ("* * * *", "has 4 fields: write five"),
        ("* * * * * * *", "has 7 fields"),
        ("", "has 0 fields"),
        ("0 0 * foo *", "month: 'foo' is not a value: write a number from 1 to 12"),
        ("0 0 * janu *", "month: 'janu' is not a value: did you mean 'jan'?"),
        ("0 0 * * thr", "did you mean 'thu'?"),
        ("@dayly", "did you mean '@daily'?"),
        ("@reboot", "there is no boot"),
        ("1- * * * *", "minute: '1-' is not a value"),
        ("*-5 * * * *", "minute: '*-5' is not a value"),
        ("1,,2 * * * *", "minute: '' is not a value"),
        ("-1 * * * *", "minute: '-1' is not a value"),
        ("\u0661 * * * *", "is not a value"),
        ("99999999999999999999 * * * *", "is not from 0 to 59"),
        ("* " * 200, "at most 256 characters"),
        ("0 0 5W * *", "day of month: '5w' is not a value"),
        ("1\u0000 * * * *", "is not a value"),
    ],
)
def test_what_can_not_be_is_refused_with_what_to_write(expression: str, said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse(expression)
    assert said in str(caught.value)
    assert caught.value.code == "invalid-cron"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Europe/Berlln", "did you mean 'Europe/Berlin'?"),
        ("europe/berlin", "did you mean 'Europe/Berlin'?"),
        ("Berlin", "did you mean 'Europe/Berlin'?"),
        ("America/New York", "did you mean 'America/New_York'?"),
        ("utc", "did you mean 'UTC'?"),
        ("Mars/Phobos", "use a name of the IANA database"),
        ("", "use a name of the IANA database"),
        ("../../etc/passwd", "use a name of the IANA database"),
        ("localtime", "no time zone is called 'localtime'"),
        ("x" * 10_000, "no time zone"),
    ],
)
def test_unknown_zones_are_refused_with_the_nearest(name: str, said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        zone_of(name)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


# The walk. It knows nothing of the code above: fields by its own simple reading, local times by zoneinfo, and
# daylight saving as Debian's cron does it, which moves a clock of its own through the minutes that the wall left out.


def members(text: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for item in text.split(","):
        base, _, step = item.partition("/")
        first, _, last = (f"{low}-{high}" if base == "*" else base).partition("-")
        found.update(range(int(first), int(last or first) + 1, int(step or 1)))
    return found


class Walk:
    def __init__(self, expression: str) -> None:
        self.texts = expression.split()
        ranges = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
        self.sets = [members(t, *r) for t, r in zip(self.texts, ranges, strict=True)]
        self.wild = self.texts[0][0] == "*" or self.texts[1][0] == "*"

    def fits(self, wall: datetime) -> bool:
        minutes, hours, days, months, weekdays = self.sets
        if wall.minute not in minutes or wall.hour not in hours or wall.month not in months:
            return False
        of_month = wall.day in days
        of_week = wall.isoweekday() in weekdays or wall.isoweekday() % 7 in weekdays
        if self.texts[2][0] == "*" or self.texts[4][0] == "*":
            return of_month and of_week
        return of_month or of_week

    def fired(self, walls: list[datetime], begin: int) -> list[int]:
        """Unix times among minutes whose local times are `walls`; fixed times by a clock that never goes back."""
        if self.wild:
            return [begin + 60 * n for n, wall in enumerate(walls) if self.fits(wall)]
        found, clock = [], walls[0] - timedelta(minutes=1)
        for n, wall in enumerate(walls):
            if wall <= clock:
                continue
            hit = self.fits(wall)
            clock += timedelta(minutes=1)
            while clock < wall:
                hit = hit or self.fits(clock)
                clock += timedelta(minutes=1)
            if hit:
                found.append(begin + 60 * n)
        return found


def local(zone: ZoneInfo, at: int) -> datetime:
    return datetime.fromtimestamp(at, zone).replace(tzinfo=None, fold=0)


def changes(zone: ZoneInfo) -> Iterator[int]:
    """Starts (Unix time) of the stretches of four days in which the zone's offset changes."""
    begin, end = (int(datetime(y, 1, 1, tzinfo=UTC).timestamp()) for y in YEARS)
    before = datetime.fromtimestamp(begin, zone).utcoffset()
    for at in range(begin, end, PROBE * 60):
        after = datetime.fromtimestamp(at + PROBE * 60, zone).utcoffset()
        if after != before:
            yield at
        before = after


def sampled(dice: random.Random, walls: list[datetime]) -> list[str]:
    """Expressions that have to do with these local times, each kind of them."""
    near = [dice.choice(walls) for _ in range(4)]
    minutes = sorted({w.minute for w in near[:3]})
    hours = sorted({w.hour for w in near})
    return [
        f"{near[0].minute} {near[0].hour} * * *",
        f"{','.join(map(str, minutes))} {','.join(map(str, hours))} * * *",
        f"{near[1].minute}-59/{dice.choice((1, 7, 20)) if near[1].minute < 39 else 1} {near[1].hour} * * *"
        if near[1].minute < 59
        else "59 0-23 * * *",
        f"*/{dice.choice((5, 7, 15, 30))} * * * *",
        f"{near[2].minute} */{dice.choice((1, 2, 3))} * * *",
        f"*/{dice.choice((10, 15))} {near[3].hour} * * *",
        f"{near[0].minute} {near[1].hour} {near[0].day} * {near[0].isoweekday()}",
        f"{near[3].minute} 0-23 * {near[3].month} *",
    ]


def test_every_change_of_every_zone_against_the_walk() -> None:
    dice = random.Random(SEED)
    checked = 0
    for name in sorted(zone_names()):
        zone = zone_of(name)
        for day in changes(zone):
            middle = _change_within(zone, day)
            begin = middle - dice.randrange(30, 90) * 60
            walls = [local(zone, begin + 60 * n) for n in range(WINDOW)]
            expression = dice.choice(sampled(dice, walls))
            expected = Walk(expression).fired(walls, begin)
            assert _after(expression, name, begin, begin + WINDOW * 60) == expected, (SEED, name, expression, middle)
            _check_before(expression, name, expected, begin, dice)
            checked += 1
    assert checked > 3_000


def test_quiet_times_of_every_zone_against_the_walk() -> None:
    dice = random.Random(SEED + 1)
    for name in sorted(zone_names()):
        zone = zone_of(name)
        begin = int(
            datetime(dice.randrange(*YEARS), dice.randrange(1, 13), dice.randrange(1, 29), tzinfo=UTC).timestamp()
        )
        walls = [local(zone, begin + 60 * n) for n in range(120)]
        if walls[-1] - walls[0] != timedelta(minutes=119):
            continue
        for expression in dice.sample(sampled(dice, walls), 2):
            expected = Walk(expression).fired(walls, begin)
            assert _after(expression, name, begin, begin + 120 * 60) == expected, (SEED, name, expression, begin)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"])
def test_days_against_the_calendar(zone: str) -> None:
    dice = random.Random(SEED + 2)
    for _ in range(60):
        days, months = sorted(dice.sample(range(1, 32), 2)), sorted(dice.sample(range(1, 13), 3))
        weekday, last = dice.randrange(8), dice.random() < 0.3
        kind = dice.choice(("month", "week", "either"))
        of_month = ",".join([*map(str, days), *(["L"] if last else [])])
        fields = ("*" if kind == "week" else of_month, ",".join(map(str, months)), "*" if kind == "month" else weekday)
        text = f"0 12 {fields[0]} {fields[1]} {fields[2]}"
        expected = []
        day = datetime(2027, 1, 1, 12)  # noqa: DTZ001
        while day.year < 2030:
            in_month = day.day in days or (last and day.day == monthrange(day.year, day.month)[1])
            in_week = day.isoweekday() % 7 == weekday % 7
            fits = {"month": in_month, "week": in_week, "either": in_month or in_week}[kind]
            if day.month in months and fits:
                expected.append(f"{day.isoformat()}[{zone}]")
            day += timedelta(days=1)
        if expected:
            begin, end = (int(datetime(y, 1, 1, tzinfo=zone_of(zone)).timestamp()) for y in (2027, 2030))
            found = [slot_name(at, zone) for at in _after(text, zone, begin, end)]
            assert found == expected, (SEED, text)


def test_seconds_against_the_walk() -> None:
    """Around a fold and a gap, second by second."""
    for name, middle in (("America/New_York", "2026-11-01T06:00"), ("Europe/Berlin", "2026-03-29T01:00")):
        zone, at = zone_of(name), unix(middle)
        walls = [local(zone, at - 600 + n) for n in range(1200)]
        expected = [at - 600 + n for n, wall in enumerate(walls) if wall.second in {7, 37} and wall.minute % 2 == 0]
        assert _after("7,37 */2 * * * *", name, at - 600, at + 600) == expected


def _change_within(zone: ZoneInfo, day: int) -> int:
    """The minute at which the offset is another one."""
    before = datetime.fromtimestamp(day, zone).utcoffset()
    low, high = 0, PROBE
    while high - low > 1:
        middle = (low + high) // 2
        same = datetime.fromtimestamp(day + 60 * middle, zone).utcoffset() == before
        low, high = (middle, high) if same else (low, middle)
    return day + 60 * high


def _after(expression: str, zone: str, begin: int, end: int) -> list[int]:
    cron, found = parse(expression), []
    slot = cron.after(begin - 1, zone)
    while slot is not None and slot < end:
        found.append(slot)
        slot = cron.after(slot, zone)
    return found


def _check_before(expression: str, zone: str, expected: list[int], begin: int, dice: random.Random) -> None:
    for _ in range(3):
        at = dice.randrange(begin, begin + WINDOW * 60)
        earlier = [slot for slot in expected if slot <= at]
        found = parse(expression).before(at, zone)
        if earlier:
            assert found == earlier[-1], (SEED, zone, expression, at)
        else:
            assert found is None or found < begin, (SEED, zone, expression, at)
