"""A step that is tried again until it gives a value or is given up."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from milepost.net.messages import jitter
from milepost.sdk.journal import Journal
from milepost.sdk.retried import Retried, retried
from milepost.sdk.retry import Retry, Tries, checked
from milepost.sdk.scope import spawned
from milepost.sdk.waits import AsyncWaits, SyncWaits

R = TypeVar("R")


async def tried(  # noqa: PLR0917  (as below)
    key: str,
    policy: Retry,
    call: Callable[[], Awaitable[object]],
    journal: Journal,
    waits: AsyncWaits,
    record: Callable[[Tries], Awaitable[None]],
) -> object:
    """Await `call()` as often as the policy and the errors allow. `record` commits the count before each wait."""
    tries = Tries(key, checked(policy), journal.tries(key))
    body = Retried()
    seconds: float | None = tries.owed(waits.clock.now())
    while True:
        if seconds:
            await waits.pause(tries, seconds, policy.hold_seconds)
        token, began = retried.set(body), list[asyncio.Future[object]]()
        below = spawned.set(began)
        try:
            return await call()
        except Exception as error:
            seconds = tries.after(error, waits.clock.now(), _chance())
            if tries.to_record:
                await record(tries)
            if seconds is None:
                raise
        finally:
            spawned.reset(below)
            retried.reset(token)
        for one in began:  # what `gather` left at work when the first of its branches failed
            one.cancel("the step is tried again")
        await asyncio.gather(*began, return_exceptions=True)
        journal.again(body)


def tried_plain(  # noqa: PLR0917  (one for each thing that it is made of)
    key: str,
    policy: Retry,
    call: Callable[[], R],
    journal: Journal,
    waits: SyncWaits,
    record: Callable[[Tries], None],
    interrupt: Callable[[], None],
) -> R:
    """Do the same for a plain task; `interrupt` raises once the run is cancelled."""
    tries = Tries(key, checked(policy), journal.tries(key))
    body = Retried()
    seconds: float | None = tries.owed(waits.clock.now())
    while True:
        if seconds:
            waits.pause(tries, seconds, policy.hold_seconds, interrupt)
        token = retried.set(body)
        try:
            return call()
        except Exception as error:
            seconds = tries.after(error, waits.clock.now(), _chance())
            if tries.to_record:
                record(tries)
            if seconds is None:
                raise
        finally:
            retried.reset(token)
        journal.again(body)


def _chance() -> float:
    return jitter() * 2 - 1
