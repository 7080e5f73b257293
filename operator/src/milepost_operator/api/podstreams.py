"""`/pod/v1/stream`: parts of runs' streams, committed together with those of other sidecars."""

from collections.abc import Callable
from typing import Final

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from milepost.wire.pod import PREFIX, StreamAnswer, StreamRequest
from milepost_operator.api import checks
from milepost_operator.api.auth import session_of
from milepost_operator.api.batcher import Batcher
from milepost_operator.api.bodies import json_response, parse_wire, read_body
from milepost_operator.api.pod import ENVELOPE, ESCAPING, Limits, batch_observer
from milepost_operator.api.values import require_value
from milepost_operator.domain.runs import PodSession
from milepost_operator.obs.metrics import Metrics
from milepost_operator.ports.streams import Streams

_STREAM: Final = TypeAdapter(StreamRequest)


class PodStreams:
    """`told`: some run has told more."""

    def __init__(self, streams: Streams, *, limits: Limits, metrics: Metrics, told: Callable[[], None]) -> None:
        self._limit = limits.record
        self._told = told
        self._append: Batcher[tuple[PodSession, StreamRequest], list[int]] = Batcher(
            streams.append_chunks, batch_observer(metrics, "stream")
        )

    def routes(self) -> list[Route]:
        """What belongs below the app's router."""
        return [Route(f"{PREFIX}/stream", self.append, methods=["POST"])]

    async def append(self, request: Request) -> Response:
        session, limit = session_of(request), self._limit
        body = await read_body(request, ESCAPING * limit + ENVELOPE, f"a chunk may have {limit}")
        asked = parse_wire(_STREAM, body)
        checks.require_fence(asked.fence)
        checks.require_count(len(asked.chunks), "chunks")
        for index, chunk in enumerate(asked.chunks):
            checks.require_write_id(chunk.write_id, f"$.chunks[{index}]")
            await require_value(chunk.value, limit, "chunk-too-large", "the chunk")
        positions = await self._append.submit((session, asked), records=len(asked.chunks), size=len(body))
        self._told()
        return json_response(StreamAnswer(positions))
