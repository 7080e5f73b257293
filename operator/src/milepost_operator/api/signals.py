"""`/v1/runs/{run}/signals`: messages to a run, which may wait for them without a pod."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from milepost_operator.api.bodies import json_response, parse_body, parse_object, read_body
from milepost_operator.api.routes import add_route
from milepost_operator.api.runs import OneQuery
from milepost_operator.api.values import require_size
from milepost_operator.domain.runs import RunView
from milepost_operator.domain.suspension import MAX_NAME_CHARS
from milepost_operator.ports.suspension import Signals

MAX_PAYLOAD: Final = 65_536
_ENVELOPE: Final = 4_096


class SignalBody(BaseModel):
    """`payload`: any JSON, null unless given. `id`: sent again with the same id it is the same signal."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]
    payload: object = None
    id: Annotated[str, Field(min_length=1, max_length=128)] | None = None


class SignalOut(BaseModel):
    """`seq`: grows with each signal of the run; they are taken in this order."""

    seq: int


class SignalsApi:
    """`find`: the run of a request's path. `poke`: something may be admitted now."""

    def __init__(
        self, signals: Signals, *, find: Callable[[Request], Awaitable[RunView]], poke: Callable[[], None]
    ) -> None:
        self._signals = signals
        self._find = find
        self._poke = poke

    def router(self) -> APIRouter:
        """The routes with what they take and answer."""
        router = APIRouter(prefix="/v1/runs", tags=["runs"])
        told = {202: SignalOut}
        path = "/{run}/signals"
        add_route(router, "POST", path, self.send, answers=told, query=OneQuery, body=SignalBody, refusals=(409,))
        return router

    async def send(self, request: Request) -> Response:
        """Leave a signal for the run: 202 once it is kept. It waits for the run, however early it comes."""
        run = await self._find(request)
        body = await read_body(request, 2 * MAX_PAYLOAD + _ENVELOPE, f"a payload may have {MAX_PAYLOAD}")
        asked = parse_object(SignalBody, await parse_body(body))
        payload = orjson.dumps(asked.payload).decode()
        await require_size(payload, MAX_PAYLOAD, "payload-too-large", "the payload", "$.payload")
        seq = await self._signals.signal_run(run.run_id, asked.name, payload, asked.id)
        self._poke()
        return json_response(SignalOut(seq=seq).model_dump(), 202)
