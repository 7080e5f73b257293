"""The pod's session with the api, which outlives its attempts, and single tries of calls under it."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

from milepost.net.client import Client
from milepost.net.messages import Headers, Reply, TransportError, compact
from milepost.net.stream import Stream
from milepost.sidecar.decode import BadAnswerError, build
from milepost.sidecar.log import log
from milepost.sidecar.settings import Settings
from milepost.wire.pod import PREFIX, Session, SessionRequest

REQUEST_SECONDS: Final = 10.0
RENEWAL_PAUSE: Final = 2.0
UNAUTHORIZED: Final = 401


class SessionRefusedError(Exception):
    """The api will not speak to this pod any more; the message says why."""


class Api:
    """Calls to the pod protocol."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tls: ssl.SSLContext | None = None
        if settings.tls:
            self._tls = ssl.create_default_context(cadata=settings.ca)
        self._token: str | None = None
        self._renew_at = 0.0
        self._opening = asyncio.Lock()
        self._renewal: asyncio.Task[None] | None = None
        self.calls = self._client()
        self.beats = self._client()

    def _client(self) -> Client:
        return Client(self._dial, self._settings.host)

    async def _dial(self) -> Stream:
        return await Stream.tcp(self._settings.host, self._settings.port, self._tls)

    async def attempt(
        self, client: Client, method: str, route: str, body: bytes = b"", seconds: float = REQUEST_SECONDS
    ) -> Reply:
        """Make one try of a call. Raises TransportError, and SessionRefusedError when no session can be had."""
        token = await self._session_token()
        headers = _bearer(token)
        if body:
            headers.append(("Content-Type", "application/json"))
        reply = await client.request(method, PREFIX + route, headers, body, seconds)
        if reply.status == UNAUTHORIZED:
            self.forget_session()
        return reply

    async def upload(self, route: str, length: int, pieces: AsyncIterator[bytes], seconds: float) -> Reply:
        """Make one try of a call whose body comes in pieces. Raises as `attempt` does, and what `pieces` raises."""
        headers = [*_bearer(await self._session_token()), ("Content-Type", "application/octet-stream")]
        reply = await self.calls.upload("PUT", PREFIX + route, headers, length, pieces, seconds)
        if reply.status == UNAUTHORIZED:
            self.forget_session()
        return reply

    async def stream(self, route: str) -> tuple[Reply, AsyncIterator[bytes]]:
        """Start reading a long answer. Raises TransportError."""
        token = await self._session_token()
        return await self.calls.stream("GET", PREFIX + route, _bearer(token), REQUEST_SECONDS)

    async def _session_token(self) -> str:
        if self._token is None:
            return await self._first_token()
        if time.monotonic() >= self._renew_at and (self._renewal is None or self._renewal.done()):
            # beside the calls: while Kubernetes hangs, the old token must keep the lease
            self._renewal = asyncio.ensure_future(self._renew(self._token))
        return self._token

    async def _first_token(self) -> str:
        async with self._opening:
            if self._token is None:  # else another call opened it meanwhile
                await self._open(self._pod_token())
            token = self._token
        if token is None:
            raise TransportError("the session ended as it was opened")
        return token

    async def _renew(self, old: str) -> None:
        # Checking the pod's own token takes Kubernetes; through an outage of it the session renews itself.
        # Whatever fails, the old token is kept: whoever must stop is told so by the answer to the next call
        for source in (self._pod_token, None):
            try:
                await self._open(source() if source else old)
            except (TransportError, SessionRefusedError) as error:
                log("renewal-failed", error=str(error))
                self._renew_at = time.monotonic() + RENEWAL_PAUSE
            else:
                return

    async def _open(self, bearer: str) -> None:
        body = compact(asdict(SessionRequest(self._settings.pod_id, self._settings.reusable)))
        headers = [*_bearer(bearer), ("Content-Type", "application/json")]
        reply = await self.calls.request("POST", f"{PREFIX}/session", headers, body, REQUEST_SECONDS)
        detail = f"/session answered {reply.status}: {reply.problem().get('detail')}"
        if reply.status in {403, 409, 410}:
            raise SessionRefusedError(detail)
        if reply.status != 200:  # noqa: PLR2004
            raise TransportError(detail)
        try:
            session = build(Session, reply.json())
        except (BadAnswerError, ValueError) as error:
            raise TransportError(f"/session answered against the protocol: {error}") from error
        self._token = session.token
        self._renew_at = time.monotonic() + session.expires_in_seconds * 2 / 3

    def _pod_token(self) -> str:
        try:
            return Path(self._settings.token_file).read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise TransportError(f"no pod token: {error}") from error

    def forget_session(self) -> None:
        """Open a new session for the next call: the api did not know this one."""
        self._token = None

    def close(self) -> None:
        """End a renewal under way and close the idle connections."""
        if self._renewal is not None:
            self._renewal.cancel()
        self.calls.close()
        self.beats.close()


def _bearer(token: str) -> Headers:
    return [("Authorization", f"Bearer {token}")]
