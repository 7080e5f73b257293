"""The public API of runs, `/v1/runs`: list, look, wait, cancel. They are made in `triggers`."""

from collections.abc import Awaitable, Callable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from orjson import Fragment
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import Response

from milepost_operator.api import views
from milepost_operator.api.auth import caller_of
from milepost_operator.api.bodies import json_response, parse_query, path_text
from milepost_operator.api.cursors import Cursors, scope_of
from milepost_operator.api.direct import Handler
from milepost_operator.api.filters import FilterQuery
from milepost_operator.api.queueviews import reason
from milepost_operator.api.routes import add_route
from milepost_operator.api.tokens import Caller
from milepost_operator.api.waiting import MAX_WAIT_SECONDS, Waiters
from milepost_operator.domain.errors import NotFoundError
from milepost_operator.domain.runs import RunView
from milepost_operator.domain.states import TERMINAL
from milepost_operator.ports.control import QueueReads
from milepost_operator.ports.lifecycle import Lists
from milepost_operator.ports.store import Intake, Reads


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class OneQuery(_Model):
    namespace: str | None = None


class GetQuery(OneQuery):
    """`wait`: seconds to wait for the run's end before it is shown as it is."""

    wait: Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS, allow_inf_nan=False)] = 0.0


class RunsApi:
    """Handlers of `/v1/runs`. `waiters` know when runs end. `poke`: something may be admitted. `stored`: the answer
    with a run's result, if that is in object storage.
    """

    def __init__(
        self,
        intake: Intake,
        reads: Reads,
        queues: QueueReads,
        lists: Lists,
        cursors: Cursors,
        *,
        waiters: Waiters[UUID],
        poke: Callable[[], None],
        stored: Callable[[UUID], Awaitable[Response | None]],
    ) -> None:
        self._intake = intake
        self._reads = reads
        self._queues = queues
        self._lists = lists
        self._cursors = cursors
        self._waiters = waiters
        self._poke = poke
        self._stored = stored

    def router(self) -> APIRouter:
        """The routes with what they take and answer."""
        router = APIRouter(prefix="/v1/runs", tags=["runs"])
        add_route(router, "GET", "", self.list_runs, answers={200: views.RunsOut}, query=FilterQuery)
        add_route(router, "GET", "/{run}", self.get, answers={200: views.RunOut}, query=GetQuery)
        add_route(router, "GET", "/{run}/attempts", self.attempts, answers={200: views.AttemptsOut}, query=OneQuery)
        add_route(
            router, "GET", "/{run}/result", self.result, answers={200: views.ResultOut}, query=OneQuery, refusals=(507,)
        )
        add_route(router, "POST", "/{run}/cancel", self.cancel, answers={202: views.RunOut}, query=OneQuery)
        return router

    def direct(self) -> dict[tuple[str, str], Handler]:
        """What thousands may wait in at once, by method and path: each layer on the way to it is memory for each."""
        return {("GET", "/v1/runs/{run}"): self.get}

    async def list_runs(self, request: Request) -> Response:
        """Newest first (by their end, where a range of ends is asked for); go on with `nextCursor` until it is null.

        Namespace `*`: all, for tokens that may name any. A page of a search by `error` looks through some thousand runs
        at most, so that it may have few items, or none, and still a `nextCursor`.
        """
        caller, query = caller_of(request), parse_query(FilterQuery, request)
        namespace = self._listed(caller, query.namespace)
        scope = scope_of("runs", namespace, query)
        before = self._cursors.read(query.cursor, scope)
        page = await self._lists.page(namespace, query.parsed(), before, query.limit)
        return json_response({"items": Fragment(page.shown), "nextCursor": self._cursors.sign(page.following, scope)})

    async def get(self, request: Request) -> Response:
        """One run by name or id, with input, result and error, and why it waits.

        With `wait` it is shown once it has ended, or when so many seconds are over.
        """
        query = parse_query(GetQuery, request)
        run = await self.named(request, query.namespace)
        if query.wait and run.state not in TERMINAL:
            namespace, run_id, seconds = run.namespace, run.run_id, query.wait
            del run, query, request  # thousands wait, and the input of each may be a megabyte
            await self._waiters.wait(run_id, seconds)
            run = await self._reads.get_run(namespace, str(run_id))
        return await self._whole(run)

    async def attempts(self, request: Request) -> Response:
        """The attempts of a run, oldest first."""
        run = await self.find(request)
        return json_response({"items": [views.attempt(a) for a in await self._reads.get_attempts(run.run_id)]})

    async def result(self, request: Request) -> Response:
        """What came of a run that succeeded: the JSON that its task gave, however large. 404 when there is none."""
        run = await self.find(request)
        if run.result is not None:
            return Response(run.result, media_type="application/json")
        stored = await self._stored(run.run_id)
        if stored is None:
            raise NotFoundError(f"run {run.name} has no result: it is {run.state}")
        return stored

    async def cancel(self, request: Request) -> Response:
        """Ask for the run's end: 202 with the run as it is now; a run that has ended stays as it is."""
        run = await self.find(request)
        await self._intake.cancel_run(run.run_id, caller_of(request).name)
        self._poke()
        return await self.show(run, 202)

    async def show(self, run: RunView, status: int) -> Response:
        """The run as it is now."""
        return await self._whole(await self._reads.get_run(run.namespace, str(run.run_id)), status)

    async def _whole(self, run: RunView, status: int = 200) -> Response:
        why = None if run.state in TERMINAL else await self._queues.why(run.run_id)
        return json_response(views.full(run) | {"why": reason(why)}, status)

    async def find(self, request: Request) -> RunView:
        """The run that the path names, in the caller's namespace. Raises NotFoundError."""
        return await self.named(request, parse_query(OneQuery, request).namespace)

    async def named(self, request: Request, namespace: str | None) -> RunView:
        """The run that the path names, in this namespace of the caller's. Raises NotFoundError."""
        return await self._reads.get_run(caller_of(request).namespace_for(namespace), path_text(request, "run"))

    def _listed(self, caller: Caller, named: str | None) -> str | None:
        if named == "*" and caller.namespace is None:
            return None
        return caller.namespace_for(named)
