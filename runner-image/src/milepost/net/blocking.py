"""A blocking HTTP/1.1 client over a unix socket, for the runner's parent and for tasks that are plain functions."""

import socket
from collections.abc import Iterator
from typing import Final

from milepost.net.framing import CHUNK, BadMessageError, Inbox, ReplyHead, request_bytes
from milepost.net.messages import Headers, Reply, TransportError

HOST: Final = "milepost"
BROKEN: Final = (OSError, EOFError, BadMessageError)


class Exchange:
    """One request in flight on its own connection. Feed it what arrives; for use with a selector."""

    def __init__(self, path: str, method: str, target: str, headers: Headers, body: bytes = b"") -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._inbox = Inbox()
        self._head: ReplyHead | None = None
        self._body = bytearray()
        try:
            self.socket.connect(path)
            self.socket.sendall(request_bytes(method, target, HOST, headers, body))
        except OSError:
            self.socket.close()
            raise

    def receive(self) -> Reply | None:
        """Read once, and give the answer once it is whole. Raises what is in BROKEN."""
        self._inbox.feed(self.socket.recv(CHUNK))
        self._head = self._head or self._inbox.reply()
        if self._head is None:
            return None
        while piece := self._inbox.body():
            self._body += piece
        return None if piece is None else Reply(self._head.status, self._head.headers, bytes(self._body))

    def close(self) -> None:
        """Close its connection."""
        self.socket.close()


class BlockingClient:
    """One kept connection to a server on a unix socket. Raises TransportError when an exchange breaks."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._inbox = Inbox()
        self._exchanges = 0

    def request(self, method: str, target: str, headers: Headers, body: bytes = b"") -> Reply:
        """Make one exchange; waits as long as the answer takes."""
        head, chunks = self.stream(method, target, headers, body)
        head.body = b"".join(chunks)
        return head

    def stream(self, method: str, target: str, headers: Headers, body: bytes = b"") -> tuple[Reply, Iterator[bytes]]:
        """Make one exchange whose body is read as it comes: read it to its end before the next exchange."""
        try:
            connection = self._connected()
            connection.sendall(request_bytes(method, target, HOST, headers, body))
            while (head := self._inbox.reply()) is None:
                self._inbox.feed(connection.recv(CHUNK))
        except BROKEN as error:
            raise self._broken(error) from error
        except BaseException:
            self.close()
            raise
        return Reply(head.status, head.headers, b""), self._chunks(connection, keep=head.keep)

    def _chunks(self, connection: socket.socket, *, keep: bool) -> Iterator[bytes]:
        try:
            while (piece := self._inbox.body()) != b"":
                if piece is None:
                    self._inbox.feed(connection.recv(CHUNK))
                else:
                    yield piece
        except BROKEN as error:
            raise self._broken(error) from error
        except BaseException:
            self.close()
            raise
        self._exchanges += 1
        if not keep:
            self.close()

    def _connected(self) -> socket.socket:
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(self._path)
            except OSError:
                connection.close()
                raise
            self._socket, self._inbox, self._exchanges = connection, Inbox(), 0
        return self._socket

    def _broken(self, error: Exception) -> TransportError:
        reused = self._socket is not None and self._exchanges > 0
        self.close()
        return TransportError(str(error) or type(error).__name__, reused=reused)

    def close(self) -> None:
        """Close the connection; the next exchange opens a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
