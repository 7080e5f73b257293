"""The pod's session with the api, and every call made under it: retried until it is answered or the attempt ends."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

from milepost.net.client import Client, Streams
from milepost.net.messages import Headers, Reply, TransportError, compact, jitter
from milepost.sidecar.decode import BadAnswerError, build
from milepost.sidecar.log import log
from milepost.sidecar.settings import Settings
from milepost.wire.pod import PREFIX, Session, SessionRequest

REQUEST_SECONDS: Final = 10.0
FIRST_BACKOFF: Final = 0.05
LAST_BACKOFF: Final = 2.0
RETRY_AFTER_LIMIT: Final = 30.0
UNAUTHORIZED: Final = 401
PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class StoppedError(Exception):
    """The attempt ended while a call waited to be sent again."""


class SessionRefusedError(Exception):
    """The api will not speak to this pod any more; the message says why."""


class Api:
    """Calls to the pod protocol."""

    def __init__(self, settings: Settings, stopped: asyncio.Event) -> None:
        self._settings = settings
        self._stopped = stopped
        self._tls: ssl.SSLContext | None = None
        if settings.tls:
            self._tls = ssl.create_default_context(cadata=settings.ca)
        self._token: str | None = None
        self._renew_at = 0.0
        self._opening = asyncio.Lock()
        self.calls = self._client()
        self.beats = self._client()

    def _client(self) -> Client:
        return Client(self._dial, self._settings.host)

    async def _dial(self) -> Streams:
        return await asyncio.open_connection(self._settings.host, self._settings.port, ssl=self._tls)

    async def call(self, method: str, route: str, body: bytes = b"", *, client: Client | None = None) -> Reply:
        """Make a call and give its answer, whatever its status but for outages and an expired session.

        Raises StoppedError when the attempt ends first, SessionRefusedError when no session can be had.
        """
        tries = 0
        while True:
            try:
                reply = await self._try(client or self.calls, method, route, body)
            except TransportError as error:
                if error.reused:
                    continue
                log("api-unreachable", route=route, error=str(error), tries=tries)
                await self._back_off(tries, None)
            else:
                if reply.status == UNAUTHORIZED:
                    self.forget_session()
                elif reply.status not in PASSING:
                    return reply
                log("api-retry", route=route, status=reply.status, tries=tries)
                await self._back_off(tries, reply.retry_after)
            tries += 1

    async def attempt(self, client: Client, route: str, body: bytes, seconds: float) -> Reply:
        """Make one try of a POST, for a caller with a rhythm of its own. Raises TransportError as well."""
        reply = await self._try(client, "POST", route, body, seconds)
        if reply.status == UNAUTHORIZED:
            self.forget_session()
        return reply

    async def stream(self, route: str) -> tuple[Reply, AsyncIterator[bytes]]:
        """Start reading a long answer. Raises TransportError."""
        token = await self._session_token()
        return await self.calls.stream("GET", PREFIX + route, _bearer(token))

    async def _try(
        self, client: Client, method: str, route: str, body: bytes, seconds: float = REQUEST_SECONDS
    ) -> Reply:
        token = await self._session_token()
        headers = _bearer(token)
        if body:
            headers.append(("Content-Type", "application/json"))
        return await client.request(method, PREFIX + route, headers, body, seconds)

    async def _session_token(self) -> str:
        if self._token is not None and time.monotonic() < self._renew_at:
            return self._token
        async with self._opening:
            if self._token is None or time.monotonic() >= self._renew_at:
                await self._open()
            if self._token is None:
                raise TransportError("no session yet")
            return self._token

    async def _open(self) -> None:
        # A renewal that fails keeps the old token: it outlives an outage of Kubernetes, which checks the pod's own
        try:
            pod_token = _read(self._settings.token_file)
            body = compact(asdict(SessionRequest(self._settings.pod_id)))
            headers = [*_bearer(pod_token), ("Content-Type", "application/json")]
            reply = await self.calls.request("POST", f"{PREFIX}/session", headers, body, REQUEST_SECONDS)
        except (OSError, TransportError) as error:
            self._renewal_failed(str(error))
            return
        if reply.status in {403, 409, 410}:
            raise SessionRefusedError(f"{reply.status}: {reply.problem().get('detail') or 'no session for this pod'}")
        if reply.status != 200:  # noqa: PLR2004
            self._renewal_failed(f"{reply.status}: {reply.problem().get('detail')}")
            return
        try:
            session = build(Session, reply.json())
        except (BadAnswerError, ValueError) as error:
            self._renewal_failed(str(error))
            return
        self._token = session.token
        self._renew_at = time.monotonic() + session.expires_in_seconds * 2 / 3

    def _renewal_failed(self, why: str) -> None:
        log("session-failed", error=why, old_token_kept=self._token is not None)
        self._renew_at = time.monotonic() + LAST_BACKOFF

    async def _back_off(self, tries: int, retry_after: float | None) -> None:
        delay = min(FIRST_BACKOFF * 2 ** min(tries, 10), LAST_BACKOFF) * jitter()
        if retry_after is not None:
            delay = max(delay, min(retry_after, RETRY_AFTER_LIMIT))
        try:
            await asyncio.wait_for(self._stopped.wait(), delay)
        except TimeoutError:
            return
        raise StoppedError

    def forget_session(self) -> None:
        """Open a new session for the next call: the api did not know this one."""
        self._token = None

    def close(self) -> None:
        """Close the idle connections."""
        self.calls.close()
        self.beats.close()


def _read(path: str) -> str:
    return Path(path).read_text(encoding="ascii").strip()


def _bearer(token: str) -> Headers:
    return [("Authorization", f"Bearer {token}")]
