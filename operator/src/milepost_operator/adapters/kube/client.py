"""The Kubernetes API over aiohttp: raw objects in and out, one error per meaning.

The generated client costs 1.3 s and 22 MB more at import than aiohttp, and parses every object twice.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import orjson

from milepost_operator.adapters.kube.config import KubeConfig, load
from milepost_operator.adapters.kube.errors import (
    KubeConflict,
    KubeError,
    KubeForbidden,
    KubeGone,
    KubeInvalid,
    KubeNotFound,
    KubeUnavailable,
    from_status,
)

__all__ = [
    "APPLY",
    "JSON_PATCH",
    "MERGE_PATCH",
    "KubeClient",
    "KubeConflict",
    "KubeError",
    "KubeForbidden",
    "KubeGone",
    "KubeInvalid",
    "KubeNotFound",
    "KubeUnavailable",
]

MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
APPLY: Final = "application/apply-patch+yaml"
"""Content types of a patch. JSON is YAML: an apply patch may be sent as JSON."""

Object = dict[str, Any]
Params = Mapping[str, str | int]
Patch = Mapping[str, Any] | list[Any]

_TOKEN_SECONDS = 60.0
_WATCH_SECONDS = 300
_UNAUTHORIZED = 401
_ERRORS_FROM = 400
_NO_PARAMS: Final[Params] = {}


class KubeClient:
    """One API server and one identity. `async with KubeClient() as kube: await kube.get("/api/v1/nodes/a")`.

    `path` starts at the server's root and is already percent-encoded. All methods raise KubeError or a subclass;
    `timeout` is in seconds, for the whole answer. Nothing is retried here except one 401 after a token's rotation.
    """

    def __init__(
        self, config: KubeConfig | None = None, *, timeout: float = 10.0, user_agent: str = "milepost"
    ) -> None:
        self._config = config or load()
        self._timeout = timeout
        self._agent = user_agent
        self._session: aiohttp.ClientSession | None = None
        self._token = self._config.token
        self._token_read_at = float("-inf")

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            ssl=self._config.ssl_context or True,
            limit=64,
            keepalive_timeout=30,
            socket_factory=_keepalive_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"User-Agent": self._agent, "Accept": "application/json"},
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, path: str, params: Params = _NO_PARAMS, *, timeout: float | None = None) -> Object:  # noqa: ASYNC109
        return await self._call("GET", path, params, timeout=timeout)

    async def list(self, path: str, params: Params = _NO_PARAMS, *, timeout: float | None = None) -> Object:  # noqa: ASYNC109
        """One page of a collection (`limit`, `continue`, `labelSelector`, `resourceVersion` in `params`)."""
        return await self._call("GET", path, params, timeout=timeout or 60.0)

    async def create(
        self,
        path: str,
        body: Mapping[str, Any],
        params: Params = _NO_PARAMS,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Object:
        return await self._call("POST", path, params, body, timeout=timeout)

    async def replace(self, path: str, body: Mapping[str, Any], params: Params = _NO_PARAMS) -> Object:
        """PUT the whole object; with its resourceVersion, KubeConflict when someone else wrote in between."""
        return await self._call("PUT", path, params, body)

    async def patch(
        self,
        path: str,
        body: Patch,
        content_type: str = MERGE_PATCH,
        params: Params = _NO_PARAMS,
    ) -> Object:
        return await self._call("PATCH", path, params, body, content_type=content_type)

    async def delete(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Params = _NO_PARAMS,
    ) -> Object:
        """`body`: DeleteOptions, e.g. {"propagationPolicy": "Background", "preconditions": {"uid": …}}."""
        return await self._call("DELETE", path, params, body)

    async def watch(self, path: str, params: Params = _NO_PARAMS) -> AsyncIterator[Object]:
        """One watch connection: yields {"type", "object"} until the server ends it after `timeoutSeconds` (300).

        KubeGone: the resourceVersion is too old. KubeUnavailable: the connection broke; events may be missing.
        """
        seconds = int(params.get("timeoutSeconds", _WATCH_SECONDS))
        query: Params = {**params, "watch": "1", "timeoutSeconds": seconds}
        limits = aiohttp.ClientTimeout(total=seconds + 15, sock_connect=self._timeout)
        try:
            response = await self._send("GET", path, query, None, MERGE_PATCH, limits)
            async with response:
                if response.status >= _ERRORS_FROM:
                    raise from_status(response.status, _decode(await response.read()))
                async for line in _lines(response):
                    yield _event(line)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubeUnavailable(0, "ConnectionBroken", f"watch {path}: {error!r}") from error

    async def _call(
        self,
        method: str,
        path: str,
        params: Params,
        body: object = None,
        *,
        content_type: str = "application/json",
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Object:
        limits = aiohttp.ClientTimeout(total=timeout or self._timeout)
        payload = None if body is None else orjson.dumps(body)
        try:
            response = await self._send(method, path, params, payload, content_type, limits)
            async with response:
                answer = _decode(await response.read())
                if response.status >= _ERRORS_FROM:
                    raise from_status(response.status, answer, response.headers.get("Retry-After"))
                return answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubeUnavailable(0, "NoAnswer", f"{method} {path}: {error!r}") from error

    async def _send(  # noqa: PLR0917
        self,
        method: str,
        path: str,
        params: Params,
        payload: bytes | None,
        content_type: str,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("KubeClient is used outside of its `async with`")
        url = f"{self._config.server}{path}"
        for last in (False, True):
            headers = {"Content-Type": content_type} if payload is not None else {}
            token = await self._bearer(fresh=last)
            if token:
                headers["Authorization"] = f"Bearer {token}"
            response = await self._session.request(
                method,
                url,
                params=params,
                data=payload,
                headers=headers,
                timeout=limits,
                allow_redirects=False,
            )
            if response.status != _UNAUTHORIZED or self._config.token_file is None:
                break
            if not last:
                response.release()
        return response

    async def _bearer(self, *, fresh: bool) -> str | None:
        file = self._config.token_file
        if file is not None and (fresh or time.monotonic() - self._token_read_at > _TOKEN_SECONDS):
            self._token = (await asyncio.to_thread(file.read_text)).strip()
            self._token_read_at = time.monotonic()
        return self._token


def _decode(body: bytes) -> Object:
    """The object, or what a proxy said instead of one."""
    try:
        value = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError:
        return {"message": body[:500].decode(errors="replace")}
    return value if isinstance(value, dict) else {"message": str(value)[:500]}


def _event(line: bytes) -> Object:
    event = _decode(line)
    if event.get("type") == "ERROR" or "object" not in event:
        status = event.get("object", event)
        raise from_status(int(status.get("code") or _ERRORS_FROM), status)
    return event


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of any length: StreamReader.readline refuses those over its buffer, and an object may be 1.5 MB."""
    parts: list[bytes] = []
    async for chunk in response.content.iter_any():
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            line = b"".join((*parts, piece))
            parts.clear()
            if line:
                yield line
        if rest:
            parts.append(rest)
    if parts:
        yield b"".join(parts)


def _keepalive_socket(address: tuple[Any, ...]) -> socket.socket:
    """Notice a vanished API server within half a minute, also on a silent watch."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000)):
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made
