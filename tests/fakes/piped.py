"""A connection of asyncio's own streams, as `milepost.net.server` serves one: with TLS on the server's side."""

import asyncio

from milepost.net.framing import CHUNK


class Piped:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def receive(self) -> bytes:
        return await self._reader.read(CHUNK)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def finish(self) -> None:
        self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()
