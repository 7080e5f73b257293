"""asyncpg's errors in our family: SQLSTATE classes decide (PostgreSQL manual, appendix A)."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import asyncpg

from milepost_operator.domain.errors import UnavailableError

T = TypeVar("T")

_CAN_NOT_NOW = ("08", "53", "55P03", "57", "58", "25006", "25P03", "40003", "XX000")
_RETRY = {"40001", "40P01"}
_TRIES = 5


@contextmanager
def translated() -> Iterator[None]:
    """Raise UnavailableError for what says "not now": nothing that failed so was acknowledged."""
    try:
        yield
    except asyncpg.PostgresError as error:
        state = error.sqlstate or ""
        if state.startswith(_CAN_NOT_NOW) or state in _RETRY:
            raise UnavailableError(f"Postgres can't commit now ({state} {error})") from error
        raise
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError) as error:
        # InternalClientError: a session that the server ended while it was idle, found by the next who takes it
        if isinstance(error, ValueError):  # a wrong argument of ours
            raise
        raise UnavailableError(f"Postgres can't be reached ({error or type(error).__name__})") from error


async def retrying(operation: Callable[[], Awaitable[T]]) -> T:
    """Run a whole transaction again after a serialisation failure or a deadlock, with jitter, a few times."""
    for left in reversed(range(_TRIES)):
        try:
            with translated():
                return await operation()
        except UnavailableError as error:
            cause = error.__cause__
            if left == 0 or not (isinstance(cause, asyncpg.PostgresError) and cause.sqlstate in _RETRY):
                raise
            await asyncio.sleep(random.uniform(0.002, 0.02))  # noqa: S311  jitter, not a secret
    raise AssertionError("the last try returns or raises")
