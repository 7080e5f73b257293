"""Wake-ups between processes: NOTIFY, coalesced and apart from every transaction that has work to commit.

Inside such a transaction it would serialise commits on one lock (measured: 9,051 to 2,549 a second). A wake-up
is only a hint: losing one delays work until the next poll.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Final

import asyncpg

from milepost_operator.adapters.postgres.errors import translated
from milepost_operator.domain.errors import UnavailableError

CHANNEL: Final = "milepost"
COALESCE_SECONDS: Final = 0.005
PROBE_SECONDS: Final = 10.0
"""A connection that listens is silent; without a probe its death would go unnoticed."""
_FROM: Final = "!"


class Wakes:
    """Sends names of work that has come: the first at once, what follows within `COALESCE_SECONDS` together."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", cluster: str) -> None:
        self._pool = pool
        self._cluster = cluster
        self._own = uuid.uuid4().hex[:8]
        self._pending: set[str] = set()
        self._sender: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def add(self, names: Iterable[str]) -> None:
        """Send soon, without waiting for it."""
        self._pending.update(names)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send())

    def add_for_others(self, names: Iterable[str]) -> None:
        """Send what this process does not wait to hear of: it knows already."""
        self.add(f"{name}{_FROM}{self._own}" for name in names)

    def add_in(self, seconds: float, name: str) -> None:
        """Send `name` in so many seconds, unless it is due before."""
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        timer = self._timers.get(name)
        if timer is not None:
            if loop.time() < timer.when() <= at:
                return
            timer.cancel()
        self._timers[name] = loop.call_at(at, self.add, (name,))

    async def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        if self._sender:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)

    async def _send(self) -> None:
        while self._pending:
            names, self._pending = self._pending, set()
            with suppress(UnavailableError), translated():  # a hint: whoever polls finds the work
                await self._pool.execute(
                    "select pg_notify($1, n) from unnest($2::text[]) n",
                    CHANNEL,
                    [f"{self._cluster}/{name}" for name in names],
                )
            await asyncio.sleep(COALESCE_SECONDS)

    async def listen(self, names: set[str]) -> AsyncIterator[str]:
        """Yield names as they come, less those that this process sent for others; of `name=more` the name counts.
        UnavailableError when the connection breaks: connect again, and poll meanwhile.
        """
        heard: asyncio.Queue[str] = asyncio.Queue(maxsize=64)
        prefix = f"{self._cluster}/"

        def on_notify(*args: object) -> None:
            name, _, sender = str(args[-1]).removeprefix(prefix).partition(_FROM)
            if name.partition("=")[0] in names and sender != self._own:
                with suppress(asyncio.QueueFull):  # what is queued already wakes the same loop
                    heard.put_nowait(name)

        with translated():
            async with self._pool.acquire() as connection:
                await connection.add_listener(CHANNEL, on_notify)
                try:
                    while True:
                        try:
                            async with asyncio.timeout(PROBE_SECONDS):
                                name = await heard.get()
                        except TimeoutError:
                            await connection.execute("select 1")
                        else:
                            yield name
                finally:
                    if not connection.is_closed():
                        await connection.remove_listener(CHANNEL, on_notify)
