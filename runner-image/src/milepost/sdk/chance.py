"""What differs each time it is asked, recorded as steps so that every attempt sees the same.

Each is asked for twice: as a coroutine function, which needs no thread in an async task, and plainly.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID


async def now() -> datetime:
    """Give the time, in UTC."""
    return plain_now()


async def random() -> float:
    """Give a number from 0 up to 1."""
    return plain_random()


async def uuid() -> "UUID":
    """Give a random UUID."""
    return plain_uuid()


def plain_now() -> datetime:
    """Give the time, in UTC."""
    return datetime.now(UTC)


def plain_random() -> float:
    """Give a number from 0 up to 1."""
    import random as source  # noqa: PLC0415  (tasks that don't ask never pay for it)

    return source.random()  # noqa: S311  (no secret)


def plain_uuid() -> "UUID":
    """Give a random UUID."""
    from uuid import uuid4  # noqa: PLC0415  (tasks that don't ask never pay for it)

    return uuid4()
