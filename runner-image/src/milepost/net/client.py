"""An HTTP/1.1 client that keeps connections and starts no tasks of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from milepost.net.framing import BadMessageError, Inbox, ReplyHead, request_bytes, request_head
from milepost.net.messages import Headers, Reply, TransportError
from milepost.net.stream import Stream

Dial = Callable[[], Awaitable[Stream]]
BROKEN: Final = (OSError, EOFError, BadMessageError, TimeoutError)


class ClientConnection:
    """One connection: one exchange after another."""

    def __init__(self, stream: Stream, host: str) -> None:
        self._stream = stream
        self._host = host
        self._inbox = Inbox()
        self._keep = True
        self.exchanges = 0

    @property
    def usable(self) -> bool:
        """Tell whether the next exchange can go over it, as far as one can know."""
        return self.finished and self._stream.quiet

    @property
    def finished(self) -> bool:
        """Tell whether the exchange ended so that another may follow."""
        return self._keep and self._inbox.complete and self._inbox.empty

    async def send(self, method: str, target: str, headers: Headers, body: bytes) -> ReplyHead:
        """Send a request and read the head of its answer."""
        await self._stream.send(request_bytes(method, target, self._host, headers, body))
        return await self.head()

    async def begin(self, method: str, target: str, headers: Headers, length: int) -> None:
        """Send a request whose body, of so many bytes, follows by `put`; then `head` reads what is answered."""
        await self._stream.send(request_head(method, target, self._host, headers, length))

    async def put(self, piece: bytes) -> None:
        """Send a part of the body."""
        await self._stream.send(piece)

    async def head(self) -> ReplyHead:
        """Read the head of the answer."""
        while (head := self._inbox.reply()) is None:
            self._inbox.feed(await self._stream.receive())
        self._keep = head.keep
        return head

    async def chunk(self) -> bytes:
        """Read what comes next of the answer's body, b"" after its end: then the next exchange can begin."""
        while (piece := self._inbox.body()) is None:
            self._inbox.feed(await self._stream.receive())
        if not piece:
            self.exchanges += 1
        return piece

    async def rest(self) -> bytes:
        """Read the answer's body to its end."""
        data = await self.chunk()
        if data and (piece := await self.chunk()):
            pieces = [data, piece]
            while piece := await self.chunk():
                pieces.append(piece)
            data = b"".join(pieces)
        return data

    def close(self) -> None:
        """Close it without waiting."""
        self._stream.close()


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
                data = await connection.rest()
        except BROKEN as error:
            raise self._broken(connection, error) from error
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        self._put_back(connection)
        return Reply(head.status, head.headers, data)

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
        return Reply(head.status, head.headers, b""), self._body(connection, seconds)

    async def upload(  # noqa: PLR0917
        self, method: str, target: str, headers: Headers, length: int, pieces: AsyncIterator[bytes], seconds: float
    ) -> Reply:
        """Make one exchange whose body of `length` bytes is sent as it comes, over a connection of its own: half of it
        can't be sent again. `seconds`: the longest wait for each part. What `pieces` raises is passed on.
        """
        connection: ClientConnection | None = None
        try:
            async with asyncio.timeout(seconds):
                connection = ClientConnection(await self._dial(), self._host)
                await connection.begin(method, target, headers, length)
        except BROKEN as error:
            raise self._broken(connection, error) from error
        try:
            async for piece in pieces:
                await self._put(connection, piece, seconds)
            try:
                async with asyncio.timeout(seconds):
                    head = await connection.head()
                    data = await connection.rest()
            except BROKEN as error:
                raise self._broken(connection, error) from error
        finally:
            connection.close()
        return Reply(head.status, head.headers, data)

    async def _put(self, connection: ClientConnection, piece: bytes, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await connection.put(piece)
        except BROKEN as error:
            raise self._broken(connection, error) from error

    async def _body(self, connection: ClientConnection, seconds: float | None) -> AsyncIterator[bytes]:
        done = False
        try:
            while True:
                async with asyncio.timeout(seconds):
                    chunk = await connection.chunk()
                if not chunk:
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
        if connection.finished and len(self._idle) < self._keep:
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
