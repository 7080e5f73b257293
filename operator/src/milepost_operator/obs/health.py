"""A small HTTP server for probes and scrapes: /healthz, /readyz, /metrics. One answer a connection."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

_MAX_LINE: Final = 8192
_TIMEOUT: Final = 5.0
_REASONS: Final = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}

Probe = Callable[[], Mapping[str, str]]
"""What is wrong, by name; nothing is well."""


@asynccontextmanager
async def serve_health(port: int, *, healthy: Probe, ready: Probe, metrics: Callable[[], bytes]) -> AsyncIterator[int]:
    """Serve on all addresses while inside; gives the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                request = (await reader.readline()).split()
                while (await reader.readline()).strip():
                    pass
                path = request[1].partition(b"?")[0].decode(errors="replace") if len(request) > 1 else ""
                writer.write(_response(path, healthy, ready, metrics))
                await writer.drain()
        except (TimeoutError, OSError, ValueError):
            pass  # a client that went away or talks no HTTP
        finally:
            writer.close()

    server = await asyncio.start_server(answer, port=port, limit=_MAX_LINE)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


def _response(path: str, healthy: Probe, ready: Probe, metrics: Callable[[], bytes]) -> bytes:
    if path == "/metrics":
        return _raw(200, "text/plain; version=0.0.4; charset=utf-8", metrics())
    probe = {"/healthz": healthy, "/readyz": ready}.get(path)
    if probe is None:
        return _raw(404, "application/json", b"{}")
    problems = dict(probe())
    return _raw(503 if problems else 200, "application/json", json.dumps({"problems": problems}).encode())


def _raw(status: int, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body
