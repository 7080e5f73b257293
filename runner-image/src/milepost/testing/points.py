"""Places of an attempt, told by its records: where a test lets the process die, or the run be cancelled."""

from dataclasses import dataclass
from typing import Literal

When = Literal["before", "unacknowledged", "after"]


class ProcessDiedError(BaseException):
    """Unwinds the task where a test lets its process die. No `except Exception` sees it."""


@dataclass(frozen=True, slots=True)
class Point:
    """A place beside the n-th record that this attempt writes, from 1, or beside the record with this key."""

    when: When
    record: int | str

    def __post_init__(self) -> None:
        if isinstance(self.record, int) and self.record < 1:
            raise ValueError(f"records are counted from 1: {self.when}({self.record}) is no place")

    def at(self, number: int, key: str) -> bool:
        """Tell whether the place is beside this record."""
        return self.record in {number, key}

    def __str__(self) -> str:
        return f"{self.when}({self.record!r})"


def before(record: int | str) -> Point:
    """Give the place where a step was executed, and its record is not sent yet."""
    return Point("before", record)


def unacknowledged(record: int | str) -> Point:
    """Give the place where a record is committed, and the task has not heard of it."""
    return Point("unacknowledged", record)


def after(record: int | str) -> Point:
    """Give the place where a record is acknowledged, and the task reaches its next step or checkpoint."""
    return Point("after", record)
