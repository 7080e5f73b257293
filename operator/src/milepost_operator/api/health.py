"""Liveness and readiness: loops turn; the database answers. Neither looks at a backlog."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from milepost_operator.api.bodies import json_response
from milepost_operator.api.routes import add_route
from milepost_operator.domain.errors import MilepostError

STALE_SECONDS = 60.0
_READY_SECONDS = 1.0
_TIMEOUT_SECONDS = 2.0
_UNAVAILABLE = 503


class AliveOut(BaseModel):
    """`stale`: loops that have not turned for a minute. `loops`: seconds since each one's turn was due."""

    stale: list[str]
    loops: dict[str, float]


class ReadyOut(BaseModel):
    """`detail`: why not."""

    ready: bool
    detail: str


class Health:
    """`ages`: seconds since the last turn of each loop. `ready` raises when we can't serve; asked once a second."""

    def __init__(
        self,
        ready: Callable[[], Awaitable[None]],
        ages: Callable[[], Mapping[str, float]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ready = ready
        self._ages = ages
        self._clock = clock
        self._asked_at = float("-inf")
        self._answer = "not asked yet"

    def routes(self) -> list[Route]:
        """`/healthz` and `/readyz`, for a listener without the rest of the API."""
        return [Route("/healthz", self.healthz), Route("/readyz", self.readyz)]

    def router(self) -> APIRouter:
        """The same for the API, open to all."""
        router = APIRouter(tags=["health"])
        for path, handler, model in (("/healthz", self.healthz, AliveOut), ("/readyz", self.readyz, ReadyOut)):
            add_route(router, "GET", path, handler, answers={200: model, _UNAVAILABLE: model}, public=True)
        return router

    async def healthz(self, _: Request) -> Response:
        """200 while every loop has turned within a minute; the body tells each loop's age in seconds."""
        ages = {name: round(age, 1) for name, age in self._ages().items()}
        stale = sorted(name for name, age in ages.items() if age > STALE_SECONDS)
        return json_response({"stale": stale, "loops": ages}, _UNAVAILABLE if stale else 200)

    async def readyz(self, _: Request) -> Response:
        """200 when the store answered within the last second."""
        if self._clock() - self._asked_at >= _READY_SECONDS:
            self._asked_at = self._clock()
            self._answer = await self._ask()
        return json_response({"ready": not self._answer, "detail": self._answer}, _UNAVAILABLE if self._answer else 200)

    async def _ask(self) -> str:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                await self._ready()
        except TimeoutError:
            return f"the database gives no answer within {_TIMEOUT_SECONDS:g} s"
        except MilepostError as error:
            return str(error)
        return ""
