"""An HTTP/1.1 server: bounded bodies, one error answer for misuse, and never a crash."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final, Protocol
from urllib.parse import parse_qsl

from milepost.net.framing import (
    CONTINUE,
    LAST_CHUNK,
    BadMessageError,
    Inbox,
    RequestHead,
    chunk_bytes,
    reply_bytes,
)
from milepost.net.messages import ProblemError, Request, Response

DISCARD_LIMIT: Final = 256 * 1024 * 1024
DISCARD_SECONDS: Final = 2.0


class Budget:
    """Bytes of bodies that may wait in memory at once, over all connections."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> None:
        """Reserve `size` bytes. Raises ProblemError 503 when they don't fit."""
        if self.used + size > self.limit:
            detail = f"{self.used} bytes wait to be forwarded and {self.limit} is the most: try again"
            raise ProblemError(503, "spool-full", detail, headers=[("Retry-After", "1")])
        self.used += size

    def give_back(self, size: int) -> None:
        """Free what was taken."""
        self.used -= size


class App(Protocol):
    """What a server serves."""

    def body_limit(self, request: Request) -> int:
        """Give the most bytes of body this request may have. Raises ProblemError to refuse it before its body."""

    def streams(self, request: Request) -> bool:
        """Tell whether the body is taken as it comes (`Request.pieces`): it is of a length that was declared."""

    def waits(self, request: Request) -> bool:
        """Tell whether the answer may take long: such a request ends when its client goes."""

    async def handle(self, request: Request) -> Response:
        """Answer. Raises ProblemError; any other exception is reported by `failed`."""

    def failed(self, request: Request | None, error: Exception) -> None:
        """Report an exception that was answered with 500 or that ended a connection."""


class Connected(Protocol):
    """What a connection is served over; milepost.net.stream.Stream is one."""

    async def receive(self) -> bytes:
        """Wait for bytes; b"" at the end. Who gives up waiting loses none."""

    async def send(self, data: bytes) -> None:
        """Send all of it."""

    def finish(self) -> None:
        """Send no more."""

    def close(self) -> None:
        """Close without waiting."""


class BodyLostError(Exception):
    """The client went, or sent what is no HTTP, in the middle of a body that was taken as it came."""


class ServerConnection:
    """One client's connection, request after request."""

    def __init__(self, app: App, budget: Budget, stream: Connected) -> None:
        self._app = app
        self._budget = budget
        self._stream = stream
        self._inbox = Inbox()
        self._taken = 0

    async def serve(self) -> None:
        """Serve until either side closes."""
        try:
            while await self._exchange():
                self._release()
        except (ConnectionError, EOFError):
            pass  # the client is gone: it was answered as far as one can
        except Exception as error:  # noqa: BLE001  # one connection must never hurt another
            self._app.failed(None, error)
        finally:
            self._release()
            self._stream.close()

    async def _exchange(self) -> bool:
        try:
            head = await self._read_head()
            request = await self._read_request(head)
        except (ProblemError, BadMessageError) as error:
            await self._refuse(error)
            return False
        response = await self._answer(request)
        if response is None:
            return False
        if not self._inbox.complete:  # answered before its body was read
            await self._send_and_discard(response)
            return False
        keep = head.keep and not response.last
        await self._send(response, bodiless=head.method == "HEAD", keep=keep)
        return keep

    async def _read_head(self) -> RequestHead:
        while (head := self._inbox.request()) is None:
            self._inbox.feed(await self._stream.receive())
        return head

    async def _read_request(self, head: RequestHead) -> Request:
        path, _, query = head.target.partition("?")
        parameters = dict(parse_qsl(query, keep_blank_values=True)) if query else {}
        request = Request(head.method, path, parameters, head.headers)
        limit = self._app.body_limit(request)
        length = head.headers.get("content-length", "0")
        if int(length) > limit:
            raise ProblemError(413, "body-too-large", f"the body has {length} bytes, {limit} is the most here")
        if self._app.streams(request):
            request.pieces = self._pieces(head)
            return request
        await self._go_on(head)
        body = bytearray()
        while (piece := self._inbox.body()) != b"":
            if piece is None:
                self._inbox.feed(await self._stream.receive())
                continue
            self._budget.take(len(piece))
            self._taken += len(piece)
            body += piece
            if len(body) > limit:
                raise ProblemError(413, "body-too-large", f"the body has over {limit} bytes, the most here")
        request.body = bytes(body)
        return request

    async def _go_on(self, head: RequestHead) -> None:
        """Ask for the body, if the client waits to be asked."""
        if head.headers.get("expect", "").lower() == "100-continue":
            await self._stream.send(CONTINUE)

    async def _pieces(self, head: RequestHead) -> AsyncIterator[bytes]:
        await self._go_on(head)
        try:
            while (piece := self._inbox.body()) != b"":
                if piece is None:
                    self._inbox.feed(await self._stream.receive())
                else:
                    yield piece
        except (ConnectionError, EOFError, BadMessageError) as error:
            raise BodyLostError(str(error)) from error

    async def _answer(self, request: Request) -> Response | None:
        try:
            if not self._app.waits(request):
                return await self._app.handle(request)
            return await self._answer_while_connected(request)
        except ProblemError as problem:
            return problem.response()
        except BodyLostError:
            return None
        except Exception as error:  # noqa: BLE001  # answered and reported: the connection goes on
            self._app.failed(request, error)
            return ProblemError(500, "internal", "an error of the sidecar, reported in its log").response()

    async def _answer_while_connected(self, request: Request) -> Response | None:
        work = asyncio.ensure_future(self._app.handle(request))
        more = asyncio.ensure_future(self._stream.receive())
        try:
            await asyncio.wait({work, more}, return_when=asyncio.FIRST_COMPLETED)
            if more.done():
                data = more.result()
                if not data and not work.done():
                    return None
                self._inbox.feed(data)  # a pipelined request: kept for its turn
            return await work
        finally:
            for future in (work, more):
                if not future.done():
                    future.cancel()
            await asyncio.gather(work, more, return_exceptions=True)

    async def _send(self, response: Response, *, bodiless: bool = False, keep: bool) -> None:
        headers = [("Content-Type", response.content_type), *response.headers]
        length = None if response.stream is not None else len(response.body)
        out = reply_bytes(response.status, headers, length, keep=keep)
        if response.stream is None or bodiless:
            await self._stream.send(out if bodiless else out + response.body)
            return
        await self._stream.send(out)
        async for chunk in response.stream:
            await self._stream.send(chunk_bytes(chunk))
        await self._stream.send(LAST_CHUNK)

    async def _refuse(self, error: ProblemError | BadMessageError) -> None:
        self._release()
        if isinstance(error, BadMessageError):
            error = ProblemError(error.status, "bad-request", f"not HTTP/1.1: {error}")
        await self._send_and_discard(error.response())

    async def _send_and_discard(self, response: Response) -> None:
        await self._send(response, keep=False)
        # closing over unread bytes would reset the connection and take our answer from the client
        self._stream.finish()
        left = DISCARD_LIMIT
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while left > 0 and (data := await self._stream.receive()):
                    left -= len(data)
        except TimeoutError:
            return

    def _release(self) -> None:
        self._budget.give_back(self._taken)
        self._taken = 0
