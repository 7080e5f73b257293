"""An HTTP/1.1 server over asyncio streams: bounded bodies, one error answer for misuse, and never a crash."""

import asyncio
from typing import Final, Protocol
from urllib.parse import parse_qsl

import h11

from milepost.net.messages import ProblemError, Request, Response

CHUNK: Final = 65536
DISCARD_LIMIT: Final = 32 * 1024 * 1024
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

    def waits(self, request: Request) -> bool:
        """Tell whether the answer may take long: such a request ends when its client goes."""

    async def handle(self, request: Request) -> Response:
        """Answer. Raises ProblemError; any other exception is reported by `failed`."""

    def failed(self, request: Request | None, error: Exception) -> None:
        """Report an exception that was answered with 500 or that ended a connection."""


class ServerConnection:
    """One client's connection, request after request."""

    def __init__(self, app: App, budget: Budget, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._app = app
        self._budget = budget
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER)
        self._taken = 0

    async def serve(self) -> None:
        """Serve until either side closes."""
        try:
            while await self._exchange():
                self._http.start_next_cycle()
            await self._discard_rest()
        except (ConnectionError, h11.RemoteProtocolError, h11.LocalProtocolError):
            pass  # the client is gone or talks nonsense: it was answered as far as one can
        except Exception as error:  # noqa: BLE001  # one connection must never hurt another
            self._app.failed(None, error)
        finally:
            self._release()
            self._writer.close()

    async def _exchange(self) -> bool:
        request: Request | None = None
        try:
            request = await self._read_request()
            if request is None:
                return False
            response = await self._answer(request)
            if response is None:
                return False
        except ProblemError as problem:
            response = problem.response()
        except h11.RemoteProtocolError as error:
            response = ProblemError(error.error_status_hint, "bad-request", f"not HTTP/1.1: {error}").response()
        await self._send(request, response)
        self._release()
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def _answer(self, request: Request) -> Response | None:
        try:
            if not self._app.waits(request):
                return await self._app.handle(request)
            return await self._answer_while_connected(request)
        except ProblemError as problem:
            return problem.response()
        except Exception as error:  # noqa: BLE001  # answered and reported: the connection goes on
            self._app.failed(request, error)
            return ProblemError(500, "internal", "an error of the sidecar, reported in its log").response()

    async def _answer_while_connected(self, request: Request) -> Response | None:
        work = asyncio.ensure_future(self._app.handle(request))
        more = asyncio.ensure_future(self._reader.read(CHUNK))
        try:
            await asyncio.wait({work, more}, return_when=asyncio.FIRST_COMPLETED)
            if more.done():
                data = more.result()
                if not data and not work.done():
                    return None
                self._http.receive_data(data)  # a pipelined request: kept for its turn
            return await work
        finally:
            for future in (work, more):
                if not future.done():
                    future.cancel()
            await asyncio.gather(work, more, return_exceptions=True)

    async def _read_request(self) -> Request | None:
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            return None
        path, _, query = event.target.decode("ascii").partition("?")
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
        request = Request(event.method.decode("ascii"), path, dict(parse_qsl(query, keep_blank_values=True)), headers)
        limit = self._app.body_limit(request)
        length = headers.get("content-length", "0")
        if int(length) > limit:
            raise ProblemError(413, "body-too-large", f"the body has {length} bytes, {limit} is the most here")
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            self._budget.take(len(event.data))
            self._taken += len(event.data)
            body += event.data
            if len(body) > limit:
                raise ProblemError(413, "body-too-large", f"the body has over {limit} bytes, the most here")
        if not isinstance(event, h11.EndOfMessage):
            return None
        request.body = bytes(body)
        return request

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                self._writer.write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            self._http.receive_data(await self._reader.read(CHUNK))
        return event

    async def _send(self, request: Request | None, response: Response) -> None:
        if self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        headers = [("Content-Type", response.content_type), *response.headers]
        if response.stream is None and response.status != 204:  # noqa: PLR2004
            headers.append(("Content-Length", str(len(response.body))))
        if request is None:
            headers.append(("Connection", "close"))
        out = self._http.send(h11.Response(status_code=response.status, headers=headers)) or b""
        if response.stream is not None:
            self._writer.write(out)
            async for chunk in response.stream:
                self._writer.write(self._http.send(h11.Data(data=chunk)) or b"")
                await self._writer.drain()
            out = b""
        elif response.body:
            out += self._http.send(h11.Data(data=response.body)) or b""
        self._writer.write(out + (self._http.send(h11.EndOfMessage()) or b""))
        await self._writer.drain()

    async def _discard_rest(self) -> None:
        # closing over unread bytes would reset the connection and take our answer from the client
        if self._http.their_state is not h11.SEND_BODY:
            return
        self._writer.write_eof()
        left = DISCARD_LIMIT
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while left > 0 and (data := await self._reader.read(CHUNK)):
                    left -= len(data)
        except TimeoutError:
            return

    def _release(self) -> None:
        self._budget.give_back(self._taken)
        self._taken = 0
