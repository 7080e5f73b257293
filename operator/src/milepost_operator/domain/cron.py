"""When cron expressions fire; `crontab` parses them.

Daylight saving follows Debian. An expression with `*` first in its minute or hour goes by elapsed time: it fires
whenever the wall shows a time that fits. One of fixed times fires once for each time of day: at the first of a time
that comes twice, and once, at the end of the gap, for all times that a gap leaves out.
A day fits if day of month or day of week fits, where both are restricted (neither begins with `*`); else both must.
"""

from bisect import bisect_left, bisect_right
from calendar import monthrange
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from milepost_operator.domain.zones import DAY, LAST_YEAR, stretches_back, stretches_from, zone_of

HOUR: Final = 3600
MINUTE: Final = 60

MONTHS: Final = 12
SUNDAY: Final = 7
"""And 0 too."""
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression. `either`: a day of month or a day of week is enough. `elapsed`: see the module."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    last_day: bool
    months: tuple[int, ...]
    weekdays: frozenset[int]
    either: bool
    elapsed: bool

    def after(self, unix: int, zone: str) -> int | None:
        """The first slot after `unix` (Unix seconds); None when there is none until LAST_YEAR."""
        for start, end, offset, reached in stretches_from(zone, unix):
            low = start + offset if self.elapsed else reached
            wall = self._at_or_after(max(low, unix + 1 + offset) if start <= unix else low)
            if wall is None:
                return None
            slot = max(wall - offset, start)
            if slot < end:
                return slot
        return None

    def before(self, unix: int, zone: str) -> int | None:
        """The last slot at or before `unix`; None when there is none since 1972."""
        for start, end, offset, reached in stretches_back(zone, unix):
            wall = self._at_or_before(min(unix, end - 1) + offset)
            if wall is None:
                return None
            if wall >= (start + offset if self.elapsed else reached):
                return max(wall - offset, start)
        return None

    def _at_or_after(self, wall: int) -> int | None:
        number, second = divmod(wall, DAY)
        day = date.fromordinal(number + _EPOCH_DAY)
        if self._fits(day):
            time = self._time_from(second)
            if time is not None:
                return number * DAY + time
        found = self._day_after(day)
        if found is None:
            return None
        return (
            (found.toordinal() - _EPOCH_DAY) * DAY + self.hours[0] * HOUR + self.minutes[0] * MINUTE + self.seconds[0]
        )

    def _at_or_before(self, wall: int) -> int | None:
        number, second = divmod(wall, DAY)
        day = date.fromordinal(number + _EPOCH_DAY)
        if self._fits(day):
            time = self._time_until(second)
            if time is not None:
                return number * DAY + time
        found = self._day_before(day)
        if found is None:
            return None
        latest = self.hours[-1] * HOUR + self.minutes[-1] * MINUTE + self.seconds[-1]
        return (found.toordinal() - _EPOCH_DAY) * DAY + latest

    def _fits(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        of_month = day.day in self.days or (self.last_day and day.day == monthrange(day.year, day.month)[1])
        of_week = day.isoweekday() % SUNDAY in self.weekdays
        return of_month or of_week if self.either else of_month and of_week

    def _day_after(self, day: date) -> date | None:
        number, year, month = day.toordinal() + 1, day.year, day.month
        while year < LAST_YEAR:
            if month in self.months:
                stop = date(year, month, monthrange(year, month)[1]).toordinal()
                while number <= stop:
                    found = date.fromordinal(number)
                    if self._fits(found):
                        return found
                    number += 1
            year, month = (year, month + 1) if month < MONTHS else (year + 1, 1)
            number = date(year, month, 1).toordinal()
        return None

    def _day_before(self, day: date) -> date | None:
        number, year, month = day.toordinal() - 1, day.year, day.month
        while year > date.fromordinal(_EPOCH_DAY).year:
            if month in self.months:
                stop = date(year, month, 1).toordinal()
                while number >= stop:
                    found = date.fromordinal(number)
                    if self._fits(found):
                        return found
                    number -= 1
            number = date(year, month, 1).toordinal() - 1
            year, month = (year, month - 1) if month > 1 else (year - 1, MONTHS)
        return None

    def _time_from(self, second: int) -> int | None:
        """The first time of day that fits, at or after `second` of the day."""
        hour, rest = divmod(second, HOUR)
        minute, rest = divmod(rest, MINUTE)
        at = bisect_left(self.hours, hour)
        if at < len(self.hours) and self.hours[at] == hour:
            of = bisect_left(self.minutes, minute)
            if of < len(self.minutes) and self.minutes[of] == minute:
                to = bisect_left(self.seconds, rest)
                if to < len(self.seconds):
                    return hour * HOUR + minute * MINUTE + self.seconds[to]
                of += 1
            if of < len(self.minutes):
                return hour * HOUR + self.minutes[of] * MINUTE + self.seconds[0]
            at += 1
        if at < len(self.hours):
            return self.hours[at] * HOUR + self.minutes[0] * MINUTE + self.seconds[0]
        return None

    def _time_until(self, second: int) -> int | None:
        """The last time of day that fits, at or before `second` of the day."""
        hour, rest = divmod(second, HOUR)
        minute, rest = divmod(rest, MINUTE)
        at = bisect_right(self.hours, hour) - 1
        if at >= 0 and self.hours[at] == hour:
            of = bisect_right(self.minutes, minute) - 1
            if of >= 0 and self.minutes[of] == minute:
                to = bisect_right(self.seconds, rest) - 1
                if to >= 0:
                    return hour * HOUR + minute * MINUTE + self.seconds[to]
                of -= 1
            if of >= 0:
                return hour * HOUR + self.minutes[of] * MINUTE + self.seconds[-1]
            at -= 1
        if at >= 0:
            return self.hours[at] * HOUR + self.minutes[-1] * MINUTE + self.seconds[-1]
        return None


def slot_name(unix: int, zone: str) -> str:
    """What a slot is called, for ever: the wall-clock time in its zone (RFC 9557).

    The second of a time that comes twice carries its offset too.
    """
    local = datetime.fromtimestamp(unix, zone_of(zone))
    if local.fold:
        return f"{local.isoformat()}[{zone}]"
    return f"{local.replace(tzinfo=None).isoformat()}[{zone}]"
