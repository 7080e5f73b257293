"""A connected socket for asyncio, plain or TLS, for exchanges: what is sent waits for its answer.

OpenSSL works on the socket itself here. asyncio's own streams pass each message through a protocol, two transports and
memory buffers: for a durable step that is a third of a sidecar's work.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final

from milepost.net.framing import CHUNK

_NOT_YET: Final = (BlockingIOError, ssl.SSLWantReadError)
_FULL: Final = (BlockingIOError, ssl.SSLWantWriteError)
CONNECT_SECONDS: Final = 5.0
# A peer whose node or network is gone says nothing, not even that it is gone: a silent connection is asked after 2 s,
# and given up 4 s later; so is one whose data nobody acknowledges.
_LIVENESS: Final = (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 6000))


class Stream:
    """One connection, for one task at a time. Whatever breaks it is an OSError (ssl.SSLError is one)."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[bytes] | None = None
        self._listens = False
        self._unread = b""

    @classmethod
    async def unix(cls, path: str) -> "Stream":
        """Connect to a unix socket."""
        return cls(await _connected(socket.AF_UNIX, path))

    @classmethod
    async def tcp(cls, host: str, port: int, tls: ssl.SSLContext | None) -> "Stream":
        """Connect to the first address of the host that answers, and agree on TLS."""
        refused = OSError(f"{host} has no address")
        for family, _, _, _, address in await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        ):
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    connected = await _connected(family, address)
                    _watch(connected)
                    return cls(connected if tls is None else await _secured(connected, tls, host))
            except ssl.SSLError:
                raise
            except OSError as error:
                refused = error
        raise refused

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except _FULL:
                await _until(self._loop.add_writer, self._loop.remove_writer, self._socket)

    async def receive(self) -> bytes:
        """Wait for bytes; b"" at the end of the stream. Who gives up waiting loses none."""
        if self._unread:
            data, self._unread = self._unread, b""
            return data
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return self._socket.recv(CHUNK)
        waiter: asyncio.Future[bytes] = self._loop.create_future()
        self._waiter = waiter
        if not self._listens:
            self._loop.add_reader(self._socket, self._on_readable)
            self._listens = True
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.done() and waiter.exception() is None:
                self._unread = waiter.result()
            raise
        finally:
            self._waiter = None

    def _on_readable(self) -> None:
        if self._waiter is None or self._waiter.done():  # nobody asks: it waits in the kernel until somebody does
            self._loop.remove_reader(self._socket)
            self._listens = False
            return
        try:
            self._waiter.set_result(self._socket.recv(CHUNK))
        except _NOT_YET:
            return  # half a TLS record, or one without data
        except OSError as error:
            self._waiter.set_exception(error)

    @property
    def quiet(self) -> bool:
        """Tell whether nothing has come unasked, not even the end."""
        try:
            socket.socket.recv(self._socket, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def finish(self) -> None:
        """Send no more: the other end reads to the end of what was sent."""
        with contextlib.suppress(OSError):  # it is gone
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close without waiting; who still waits for bytes is told the end."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(b"")
        if isinstance(self._socket, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self._socket.unwrap()  # says goodbye, and does not wait for the other's
        self._socket.close()


async def _connected(family: int, address: object) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, address)  # type: ignore[arg-type]  # a path, or a tuple
    except BaseException:
        made.close()
        raise
    return made


def _watch(connected: socket.socket) -> None:
    """Send at once, and notice when the other end is gone; where a system lacks one of the options, without it."""
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _LIVENESS:
        if (option := getattr(socket, name, None)) is not None:
            connected.setsockopt(socket.IPPROTO_TCP, option, value)


async def _secured(connected: socket.socket, tls: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    loop = asyncio.get_running_loop()
    secured = tls.wrap_socket(connected, server_hostname=host, do_handshake_on_connect=False)
    try:
        while True:
            try:
                secured.do_handshake()
            except ssl.SSLWantReadError:
                await _until(loop.add_reader, loop.remove_reader, secured)
            except ssl.SSLWantWriteError:
                await _until(loop.add_writer, loop.remove_writer, secured)
            else:
                return secured
    except BaseException:
        secured.close()
        raise


async def _until(
    add: Callable[[socket.socket, Callable[[], None]], None],
    remove: Callable[[socket.socket], object],
    connected: socket.socket,
) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    add(connected, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        remove(connected)
