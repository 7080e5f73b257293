"""An HTTP/1.1 client over asyncio streams that keeps connections and starts no tasks of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import h11

from milepost.net.framing import CHUNK, reply_headers, request_bytes
from milepost.net.messages import Headers, Reply, TransportError

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[Streams]]
BROKEN: Final = (OSError, EOFError, h11.RemoteProtocolError, TimeoutError)


class ClientConnection:
    """One connection: one exchange after another."""

    def __init__(self, streams: Streams, host: str) -> None:
        self._reader, self._writer = streams
        self._host = host
        self._http = h11.Connection(h11.CLIENT)
        self.exchanges = 0

    @property
    def usable(self) -> bool:
        """Tell whether the next exchange can go over it, as far as one can know."""
        return self._http.our_state is h11.IDLE and not self._reader.at_eof() and not self._writer.is_closing()

    async def send(self, method: str, target: str, headers: Headers, body: bytes) -> h11.Response:
        """Send a request and read the head of its answer."""
        self._writer.write(request_bytes(self._http, method, target, self._host, headers, body))
        await self._writer.drain()
        while not isinstance(event := await self._next_event(), h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise EOFError("the connection closed before an answer")  # noqa: TRY004
        return event

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body of the answer as it comes, then make ready for the next exchange."""
        while isinstance(event := await self._next_event(), h11.Data):
            yield bytes(event.data)
        if not isinstance(event, h11.EndOfMessage):
            raise EOFError("the answer broke off")  # noqa: TRY004
        self.exchanges += 1
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(CHUNK))
        return event

    def close(self) -> None:
        """Close it without waiting."""
        self._writer.close()


class Client:
    """Connections to one server; up to `keep` idle ones are kept. Raises TransportError when an exchange breaks."""

    def __init__(self, dial: Dial, host: str, keep: int = 4) -> None:
        self._dial = dial
        self._host = host
        self._keep = keep
        self._idle: list[ClientConnection] = []

    async def request(
        self, method: str, target: str, headers: Headers, body: bytes = b"", seconds: float | None = None
    ) -> Reply:
        """Make one exchange, at most `seconds` long, over a kept connection if there is one."""
        connection: ClientConnection | None = None
        try:
            async with asyncio.timeout(seconds):
                connection = await self._connection()
                head = await connection.send(method, target, headers, body)
                data = b"".join([chunk async for chunk in connection.chunks()])
        except BROKEN as error:
            raise self._broken(connection, error) from error
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        self._put_back(connection)
        return Reply(head.status_code, reply_headers(head), data)

    async def stream(
        self, method: str, target: str, headers: Headers, seconds: float | None = None
    ) -> tuple[Reply, AsyncIterator[bytes]]:
        """Make one exchange whose answer's body comes in chunks; the reply's own body is empty.

        `seconds`: the longest wait for the head and for each chunk.
        """
        connection: ClientConnection | None = None
        try:
            async with asyncio.timeout(seconds):
                connection = await self._connection()
                head = await connection.send(method, target, headers, b"")
        except BROKEN as error:
            raise self._broken(connection, error) from error
        return Reply(head.status_code, reply_headers(head), b""), self._body(connection, seconds)

    async def _body(self, connection: ClientConnection, seconds: float | None) -> AsyncIterator[bytes]:
        done = False
        chunks = connection.chunks()
        try:
            while True:
                async with asyncio.timeout(seconds):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                yield chunk
            done = True
        except BROKEN as error:
            raise TransportError(str(error) or type(error).__name__) from error
        finally:
            if done:
                self._put_back(connection)
            else:
                connection.close()

    async def _connection(self) -> ClientConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.close()
        return ClientConnection(await self._dial(), self._host)

    def _put_back(self, connection: ClientConnection) -> None:
        if connection.usable and len(self._idle) < self._keep:
            self._idle.append(connection)
        else:
            connection.close()

    @staticmethod
    def _broken(connection: ClientConnection | None, error: Exception) -> TransportError:
        if connection is None:
            return TransportError(f"no connection: {str(error) or type(error).__name__}")
        connection.close()
        return TransportError(str(error) or type(error).__name__, reused=connection.exchanges > 0)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()
