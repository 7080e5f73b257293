"""The sidecar as the task's side calls it: once for asyncio, once blocking. Both go on while it restarts."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

from milepost.net.blocking import BlockingClient
from milepost.net.client import Client
from milepost.net.messages import Headers, Reply, TransportError
from milepost.net.stream import Stream
from milepost.sdk.local import Patience, refusal

OK: Final = 200
NO_CONTENT: Final = 204
CONNECTIONS: Final = 16


class AsyncSidecar:
    """For async tasks; branches use connections of their own."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._http = Client(self._dial, "milepost", keep=CONNECTIONS)
        self._turns = asyncio.Semaphore(CONNECTIONS)

    async def _dial(self) -> Stream:
        return await Stream.unix(self._path)

    async def call(self, method: str, target: str, headers: Headers, body: bytes = b"") -> Reply:
        """Make a request until it is answered. Raises MilepostError; a success and 409 step-exists are given back."""
        patience = Patience()
        while True:
            try:
                async with self._turns:  # a thousand branches need no thousand connections
                    reply = await self._http.request(method, target, headers, body)
                pause = patience.busy(reply)
            except TransportError as error:
                pause = patience.broken(error)
            else:
                if pause is None:
                    return accepted(reply)
            await asyncio.sleep(pause)

    async def lines(self, target: str, take: Callable[[bytes], None]) -> None:
        """Hand each line of an answer to `take`; a repeated line is harmless to it."""
        patience = Patience()
        while True:
            try:
                reply, chunks = await self._http.stream("GET", target, [])
                if reply.status == OK:
                    await _take_lines(chunks, take)
                    return
                reply.body = b"".join([chunk async for chunk in chunks])
                pause = patience.busy(reply)
                if pause is None:
                    raise refusal(reply)
            except TransportError as error:
                pause = patience.broken(error)
            await asyncio.sleep(pause)

    def close(self) -> None:
        """Close the idle connections."""
        self._http.close()


class BlockingSidecar:
    """For plain functions and the runner's parent."""

    def __init__(self, path: str) -> None:
        self._http = BlockingClient(path)

    def call(self, method: str, target: str, headers: Headers, body: bytes = b"") -> Reply:
        """Make a request until it is answered, as `AsyncSidecar.call` does."""
        patience = Patience()
        while True:
            try:
                reply = self._http.request(method, target, headers, body)
                pause = patience.busy(reply)
            except TransportError as error:
                pause = patience.broken(error)
            else:
                if pause is None:
                    return accepted(reply)
            time.sleep(pause)

    def lines(self, target: str, take: Callable[[bytes], None]) -> None:
        """Hand each line of an answer to `take`, as `AsyncSidecar.lines` does."""
        patience = Patience()
        while True:
            try:
                reply, chunks = self._http.stream("GET", target, [])
                if reply.status == OK:
                    _take_lines_blocking(chunks, take)
                    return
                reply.body = b"".join(chunks)
                pause = patience.busy(reply)
                if pause is None:
                    raise refusal(reply)
            except TransportError as error:
                pause = patience.broken(error)
            time.sleep(pause)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def accepted(reply: Reply) -> Reply:
    """Pass on a success, and 409 `step-exists`, which the caller reads on from. Raises MilepostError."""
    if reply.status in {OK, NO_CONTENT} or step_exists(reply):
        return reply
    raise refusal(reply)


def step_exists(reply: Reply) -> bool:
    """Tell whether a step was refused because it is recorded already."""
    return reply.status == 409 and reply.problem().get("code") == "step-exists"  # noqa: PLR2004


class _Lines:
    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        first, *more = chunk.split(b"\n")
        self._rest += first
        for piece in more:
            self._take(self._rest)
            self._rest = piece

    def end(self) -> None:
        if self._rest:
            self._take(self._rest)


async def _take_lines(chunks: AsyncIterator[bytes], take: Callable[[bytes], None]) -> None:
    lines = _Lines(take)
    async for chunk in chunks:
        lines.feed(chunk)
    lines.end()


def _take_lines_blocking(chunks: Iterator[bytes], take: Callable[[bytes], None]) -> None:
    lines = _Lines(take)
    for chunk in chunks:
        lines.feed(chunk)
    lines.end()
