"""What a pod asks for, and tells, before it has a run."""

from typing import Final

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from milepost.wire.pod import PREFIX, LeftRequest
from milepost_operator.api import checks
from milepost_operator.api.auth import session_of
from milepost_operator.api.bodies import json_response, parse_wire, read_body
from milepost_operator.ports.prewarm import PrewarmPods

_LEFT: Final = TypeAdapter(LeftRequest)
_SMALL_BODY: Final = 16_384


class AheadApi:
    """Once for each pod at most: neither is worth a batch."""

    def __init__(self, store: PrewarmPods) -> None:
        self._store = store

    def routes(self) -> list[Route]:
        """What belongs below the app's router."""
        return [
            Route(f"{PREFIX}/code", self.code, methods=["GET"]),
            Route(f"{PREFIX}/left", self.left, methods=["POST"]),
        ]

    async def code(self, request: Request) -> Response:
        return json_response(await self._store.code_of(session_of(request)))

    async def left(self, request: Request) -> Response:
        session = session_of(request)
        asked = parse_wire(_LEFT, await read_body(request, _SMALL_BODY, "it only names what was left"))
        await self._store.tell_left(session, checks.mended_left(asked.left))
        return Response(status_code=204)
