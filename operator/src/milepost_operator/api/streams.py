"""`/v1/runs/{run}/stream`: what a run tells while it runs, from any position on; as pages that wait, or as events."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Final
from uuid import UUID

import orjson
from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from milepost.wire.values import INT_MAX
from milepost_operator.api import views
from milepost_operator.api.bodies import json_response, parse_query
from milepost_operator.api.routes import add_route
from milepost_operator.api.runs import GetQuery
from milepost_operator.api.waiting import Waiters
from milepost_operator.domain.errors import InvalidInputError, MilepostError
from milepost_operator.domain.runs import Chunk, RunView
from milepost_operator.ports.streams import Streams

MAX_CHUNKS: Final = 1_000
EVENTS: Final = "text/event-stream"
IDLE_SECONDS: Final = 15.0
"""Then a comment says that the connection is alive."""
MAX_IDLE: Final = 40
"""Then the answer ends, and a reader that is still there asks again."""
_LINE_BREAKS: Final = str.maketrans("\r\n", "  ")
Mark = tuple[UUID, int]


class StreamQuery(GetQuery):
    """`after`: the position that was read last. `wait`: seconds to wait for a chunk after it, or the run's end."""

    after: Annotated[int, Field(ge=0, le=INT_MAX)] = 0
    limit: Annotated[int, Field(ge=1, le=MAX_CHUNKS)] = MAX_CHUNKS


class StreamsApi:
    """`named`: the run of a request's path, in a namespace. `ended`: which runs tell no more. `waiters` know when a run
    told more.
    """

    def __init__(
        self,
        streams: Streams,
        *,
        named: Callable[[Request, str | None], Awaitable[RunView]],
        ended: Callable[[Sequence[UUID]], Awaitable[Sequence[UUID]]],
        waiters: Waiters[Mark],
    ) -> None:
        self._streams = streams
        self._named = named
        self._ended = ended
        self._waiters = waiters

    def router(self) -> APIRouter:
        """The routes with what they take and answer."""
        router = APIRouter(prefix="/v1/runs", tags=["runs"])
        add_route(router, "GET", "/{run}/stream", self.read, answers={200: views.StreamOut}, query=StreamQuery)
        return router

    async def read(self, request: Request) -> Response:
        """What the run told by `ctx.stream` after a position, oldest first.

        `next` is the `after` of the next request; `ended`: nothing comes after this. With `wait` the answer comes with
        the next chunk, at the run's end, or when so many seconds are over. With `Accept: text/event-stream` the chunks
        come as events as they are told; `Last-Event-ID` counts for `after`, and the event `end` is the last.
        """
        query = parse_query(StreamQuery, request)
        run_id = (await self._named(request, query.namespace)).run_id  # all of it may be large, and many wait here
        if EVENTS in request.headers.get("accept", ""):
            events = self._events(run_id, _last_seen(request, query.after), query.limit)
            return StreamingResponse(events, media_type=EVENTS, headers={"Cache-Control": "no-cache"})
        chunks, ended = await self._page(run_id, query.after, query.limit)
        if query.wait and not chunks and not ended:
            await self._waiters.wait((run_id, query.after), query.wait)
            chunks, ended = await self._page(run_id, query.after, query.limit)
        following = chunks[-1].position if chunks else query.after
        return json_response({"items": [_item(chunk) for chunk in chunks], "next": following, "ended": ended})

    async def _page(self, run_id: UUID, after: int, limit: int) -> tuple[Sequence[Chunk], bool]:
        """The run first: once it has ended nobody tells more, so an empty page is the end."""
        ended = await self._ended([run_id])
        chunks = await self._streams.chunks(run_id, after, limit)
        return chunks, bool(ended) and not chunks

    async def _events(self, run_id: UUID, after: int, limit: int) -> AsyncIterator[bytes]:
        try:
            for _ in range(MAX_IDLE):
                chunks, ended = await self._page(run_id, after, limit)
                while chunks:
                    yield b"".join(_event(chunk) for chunk in chunks)
                    after = chunks[-1].position
                    chunks, ended = await self._page(run_id, after, limit)
                if ended:
                    yield b"event: end\ndata: {}\n\n"
                    return
                if not await self._waiters.wait((run_id, after), IDLE_SECONDS):
                    yield b": waiting\n\n"
        except MilepostError as error:  # too late for another status: readers of events ask again by themselves
            yield f": {error.code}\n\n".encode()


def _last_seen(request: Request, after: int) -> int:
    text = request.headers.get("last-event-id", "")
    if not text:
        return after
    if not (text.isascii() and text.isdigit()) or int(text) > INT_MAX:
        raise InvalidInputError("invalid-field", "Last-Event-ID is a position: a whole number", "Last-Event-ID")
    return int(text)


def _item(chunk: Chunk) -> dict[str, object]:
    return {
        "position": chunk.position,
        "attempt": chunk.attempt,
        "value": orjson.Fragment(chunk.value),
        "createdAt": chunk.created_at,
    }


def _event(chunk: Chunk) -> bytes:
    data = _item(chunk) | {"value": orjson.Fragment(chunk.value.translate(_LINE_BREAKS))}
    return b"id: %d\ndata: %b\n\n" % (chunk.position, orjson.dumps(data))
