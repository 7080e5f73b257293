"""Takes the connections of a unix socket, each served by a task of its own."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Final

from milepost.net.stream import Stream

BACKLOG: Final = 100
FULL: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
FULL_SECONDS: Final = 1.0
"""Before another look at connections that there was no room for."""


class Listener:
    """`serve` makes the coroutine of a connection as it is taken."""

    def __init__(self, path: str, serve: Callable[[Stream], Coroutine[object, object, None]]) -> None:
        self._serve = serve
        self._loop = asyncio.get_running_loop()
        self._serving: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        with suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108  # of a process that ended before it gave the socket its name
        self._socket.bind(path)
        self._socket.listen(BACKLOG)
        self._listen()

    def _listen(self) -> None:
        self._again = None
        self._loop.add_reader(self._socket, self._take)

    def _take(self) -> None:
        for _ in range(BACKLOG):
            try:
                connected, _address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in FULL:
                    raise
                self._loop.remove_reader(self._socket)
                self._again = self._loop.call_later(FULL_SECONDS, self._listen)
                return
            connected.setblocking(False)
            task = self._loop.create_task(self._serve(Stream(connected)))
            self._serving.add(task)  # the loop itself holds tasks but weakly
            task.add_done_callback(self._serving.discard)

    def close(self) -> None:
        """Take no more; those that were taken are served on."""
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()
