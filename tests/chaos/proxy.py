"""What stands between pods and the api: a Service that spreads connections, and loses answers when told to."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

_CHUNK = 65536
LOSABLE = {
    b"/pod/v1/records": "records",
    b"/pod/v1/settle": "settle",
    b"/pod/v1/start": "start",
    b"/v1/runs": "runs",
    b"/v1/runs/batch": "batch",
}
"""Requests whose effect is committed when their answer comes."""


class Proxy:
    """Each connection goes to a replica that takes it. `lose(n)`: the answers of the next n writes never arrive."""

    def __init__(self, ports: Sequence[int], rng: random.Random) -> None:
        self._ports = list(ports)
        self._rng = rng
        self._to_lose = 0
        self.lost: Counter[str] = Counter()
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(server.sockets[0].getsockname()[1])

    def lose(self, answers: int) -> None:
        self._to_lose += answers

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await self._dial()
        if upstream is None:
            writer.close()
            return
        link = _Link(self)
        there = asyncio.create_task(link.requests(reader, upstream[1]))
        back = asyncio.create_task(link.answers(upstream[0], writer))
        self._tasks |= {there, back}
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        for task in (there, back):
            task.cancel()
        await asyncio.gather(there, back, return_exceptions=True)
        self._tasks -= {there, back}
        writer.close()
        upstream[1].close()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for port in self._rng.sample(self._ports, len(self._ports)):
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue
        return None

    def swallow(self, request: str | None) -> bool:
        """Whether this answer is one to lose."""
        if request is None or not self._to_lose:
            return False
        self._to_lose -= 1
        self.lost[request] += 1
        return True


class _Link:
    """One connection: a client sends its next request only after the last answer, so the last head names the answer."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._request: str | None = None

    async def requests(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            if data.startswith(b"POST "):
                self._request = LOSABLE.get(data[5:60].split(b" ", 1)[0])
            elif data.startswith(b"GET "):
                self._request = None
            upstream.write(data)
            await upstream.drain()

    async def answers(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await upstream.read(_CHUNK):
            if data.startswith(b"HTTP/1.1 20") and self._proxy.swallow(self._request):
                return
            writer.write(data)
            await writer.drain()
