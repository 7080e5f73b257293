"""`/v1/runs/{run}/decision`: what becomes of a run that is held because its code changed."""

from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from milepost_operator.api import views
from milepost_operator.api.auth import caller_of
from milepost_operator.api.bodies import parse_json, read_body
from milepost_operator.api.routes import add_route
from milepost_operator.api.runs import OneQuery
from milepost_operator.domain.lifecycle import Decision
from milepost_operator.domain.runs import RunView
from milepost_operator.ports.lifecycle import Lifecycle

MAX_BODY: Final = 4_096


class DecisionBody(BaseModel):
    """`accept`: go on; records are found by their keys alone for as long as the run has this version of its Task.
    `recheck`: go on, every record checked as before (the code was put right). `fail`: end the run.
    """

    decision: Decision


class DecisionsApi:
    """`find`: the run of a request's path. `show`: the run as it is now. `poke`: something may be admitted now."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        *,
        find: Callable[[Request], Awaitable[RunView]],
        show: Callable[[RunView, int], Awaitable[Response]],
        poke: Callable[[], None],
    ) -> None:
        self._lifecycle = lifecycle
        self._find = find
        self._show = show
        self._poke = poke

    def router(self) -> APIRouter:
        """The route with what it takes and answers."""
        router = APIRouter(prefix="/v1/runs", tags=["runs"])
        told = {202: views.RunOut}
        path = "/{run}/decision"
        add_route(router, "POST", path, self.decide, answers=told, query=OneQuery, body=DecisionBody, refusals=(409,))
        return router

    async def decide(self, request: Request) -> Response:
        """Decide on a run that is held because its code changed: 202 with the run as it is now."""
        run = await self._find(request)
        asked = await parse_json(DecisionBody, await read_body(request, MAX_BODY, "a decision is one word"))
        await self._lifecycle.decide_change(run.run_id, asked.decision, caller_of(request).name)
        self._poke()
        return await self._show(run, 202)
