"""Calls that are repeated until they are answered or what they are for has ended."""

import asyncio
from typing import Final

from milepost.net.messages import Reply, TransportError, jitter
from milepost.sidecar.log import log
from milepost.sidecar.session import REQUEST_SECONDS, UNAUTHORIZED, Api

FIRST_BACKOFF: Final = 0.05
LAST_BACKOFF: Final = 2.0
RETRY_AFTER_LIMIT: Final = 30.0
PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class StoppedError(Exception):
    """What the call was for ended while it waited to be sent again."""


class Calls:
    """Calls of one attempt, or of the time between two. `stopped` ends those that wait."""

    def __init__(self, api: Api, stopped: asyncio.Event) -> None:
        self.api = api
        self._stopped = stopped

    async def call(self, method: str, route: str, body: bytes = b"", *, seconds: float = REQUEST_SECONDS) -> Reply:
        """Make a call and give its answer, whatever its status but for outages and an expired session.

        `seconds`: the longest wait for one answer. Raises StoppedError, and SessionRefusedError when no session can be
        had.
        """
        tries = 0
        while True:
            try:
                reply = await self.api.attempt(self.api.calls, method, route, body, seconds)
            except TransportError as error:
                if error.reused:
                    continue
                log("api-unreachable", route=route, error=str(error), tries=tries)
                await self._back_off(tries, None)
            else:
                if reply.status != UNAUTHORIZED and reply.status not in PASSING:
                    return reply
                log("api-retry", route=route, status=reply.status, tries=tries)
                await self._back_off(tries, reply.retry_after)
            tries += 1

    async def _back_off(self, tries: int, retry_after: float | None) -> None:
        delay = min(FIRST_BACKOFF * 2 ** min(tries, 10), LAST_BACKOFF) * jitter()
        if retry_after is not None:
            delay = max(delay, min(retry_after, RETRY_AFTER_LIMIT))
        try:
            await asyncio.wait_for(self._stopped.wait(), delay)
        except TimeoutError:
            return
        raise StoppedError
