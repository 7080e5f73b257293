"""A blocking HTTP/1.1 client over a unix socket, for the runner's parent and for tasks that are plain functions."""

import socket
from collections.abc import Iterator
from typing import Final

import h11

from milepost.net.framing import CHUNK, reply_headers, request_bytes
from milepost.net.messages import Headers, Reply, TransportError

HOST: Final = "milepost"
BROKEN: Final = (OSError, EOFError, h11.RemoteProtocolError)


class Exchange:
    """One request in flight on its own connection. Feed it what arrives; for use with a selector."""

    def __init__(self, path: str, method: str, target: str, headers: Headers, body: bytes = b"") -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._http = h11.Connection(h11.CLIENT)
        self._head: h11.Response | None = None
        self._body = bytearray()
        try:
            self.socket.connect(path)
            self.socket.sendall(request_bytes(self._http, method, target, HOST, headers, body))
        except OSError:
            self.socket.close()
            raise

    def receive(self) -> Reply | None:
        """Read once, and give the answer once it is whole. Raises OSError, EOFError or RemoteProtocolError."""
        self._http.receive_data(self.socket.recv(CHUNK))
        while (event := self._http.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Response):
                self._head = event
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage) and self._head is not None:
                return Reply(self._head.status_code, reply_headers(self._head), bytes(self._body))
            elif isinstance(event, h11.ConnectionClosed):
                raise EOFError("the connection closed before an answer")
        return None

    def close(self) -> None:
        """Close its connection."""
        self.socket.close()


class BlockingClient:
    """One kept connection to a server on a unix socket. Raises TransportError when an exchange breaks."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._http = h11.Connection(h11.CLIENT)
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
            connection.sendall(request_bytes(self._http, method, target, HOST, headers, body))
            while not isinstance(event := self._next_event(connection), h11.Response):
                if not isinstance(event, h11.InformationalResponse):
                    raise EOFError("the connection closed before an answer")  # noqa: TRY004, TRY301
        except BROKEN as error:
            raise self._broken(error) from error
        except BaseException:
            self.close()
            raise
        return Reply(event.status_code, reply_headers(event), b""), self._chunks(connection)

    def _chunks(self, connection: socket.socket) -> Iterator[bytes]:
        try:
            while isinstance(event := self._next_event(connection), h11.Data):
                yield bytes(event.data)
            if not isinstance(event, h11.EndOfMessage):
                raise EOFError("the answer broke off")  # noqa: TRY004, TRY301
        except BROKEN as error:
            raise self._broken(error) from error
        except BaseException:
            self.close()
            raise
        self._exchanges += 1
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            self.close()

    def _connected(self) -> socket.socket:
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(self._path)
            except OSError:
                connection.close()
                raise
            self._socket, self._http, self._exchanges = connection, h11.Connection(h11.CLIENT), 0
        return self._socket

    def _next_event(self, connection: socket.socket) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(connection.recv(CHUNK))
        return event

    def _broken(self, error: Exception) -> TransportError:
        reused = self._socket is not None and self._exchanges > 0
        self.close()
        return TransportError(str(error) or type(error).__name__, reused=reused)

    def close(self) -> None:
        """Close the connection; the next exchange opens a new one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
