"""The public API of runs, `/v1/runs`: list, look, wait, cancel. They are made in `triggers`."""

from collections.abc import Callable
from typing import Annotated, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import Response

from milepost_operator.api import views
from milepost_operator.api.auth import caller_of
from milepost_operator.api.bodies import json_response, parse_query, query_docs
from milepost_operator.api.tokens import Caller
from milepost_operator.api.waiting import MAX_WAIT_SECONDS, Waiters
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.runs import RunView
from milepost_operator.domain.states import TERMINAL, RunState
from milepost_operator.ports.store import Intake, Reads

MAX_PAGE: Final = 500


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class ListQuery(_Model):
    """`namespace` `*`: all, for tokens that may name any."""

    namespace: str | None = None
    task: str | None = None
    queue: str | None = None
    state: RunState | None = None
    tag: str | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 50
    cursor: str | None = None


class OneQuery(_Model):
    namespace: str | None = None


class GetQuery(OneQuery):
    """`wait`: seconds to wait for the run's end before it is shown as it is."""

    wait: Annotated[float, Field(ge=0, le=MAX_WAIT_SECONDS, allow_inf_nan=False)] = 0.0


class RunsApi:
    """Handlers of `/v1/runs`. `waiters` know when runs end. `poke`: something may be admitted."""

    def __init__(
        self,
        intake: Intake,
        reads: Reads,
        *,
        waiters: Waiters,
        poke: Callable[[], None],
    ) -> None:
        self._intake = intake
        self._reads = reads
        self._waiters = waiters
        self._poke = poke

    def router(self) -> APIRouter:
        """The routes with their documentation; handlers read requests themselves."""
        router = APIRouter(prefix="/v1/runs", tags=["runs"])
        for path, handler, method, status, model, query in (
            ("", self.list_runs, "GET", 200, views.RunsOut, ListQuery),
            ("/{run}", self.get, "GET", 200, views.RunOut, GetQuery),
            ("/{run}/attempts", self.attempts, "GET", 200, views.AttemptsOut, OneQuery),
            ("/{run}/cancel", self.cancel, "POST", 202, views.RunOut, OneQuery),
        ):
            router.add_api_route(
                path,
                handler,
                methods=[method],
                status_code=status,
                response_model=None,
                responses={status: {"model": model}},
                openapi_extra=query_docs(query),
            )
        return router

    async def list_runs(self, request: Request) -> Response:
        """Newest first; go on with `nextCursor` until it is null."""
        caller, query = caller_of(request), parse_query(ListQuery, request)
        runs = await self._reads.list_runs(
            self._listed(caller, query.namespace),
            task=query.task,
            queue=query.queue,
            state=query.state,
            tag=query.tag,
            before=views.parse_cursor(query.cursor) if query.cursor is not None else None,
            limit=query.limit + 1,
        )
        page = runs[: query.limit]
        cursor = views.cursor_after(page[-1]) if len(runs) > query.limit else None
        return json_response({"items": [views.summary(run) for run in page], "nextCursor": cursor})

    async def get(self, request: Request) -> Response:
        """One run by name or id, with input, result and error; with `wait` once it has ended, or the time is over."""
        query = parse_query(GetQuery, request)
        run = await self._found(request, query.namespace)
        if query.wait and run.state not in TERMINAL:
            await self._waiters.wait(run.run_id, query.wait)
            run = await self._reads.get_run(run.namespace, str(run.run_id))
        return json_response(views.full(run))

    async def attempts(self, request: Request) -> Response:
        """The attempts of a run, oldest first."""
        run = await self._find(request)
        return json_response({"items": [views.attempt(a) for a in await self._reads.get_attempts(run.run_id)]})

    async def cancel(self, request: Request) -> Response:
        """Ask for the run's end: 202 with the run as it is now; a run that has ended stays as it is."""
        run = await self._find(request)
        await self._intake.cancel_run(run.run_id, caller_of(request).name)
        self._poke()
        return json_response(views.full(await self._reads.get_run(run.namespace, str(run.run_id))), 202)

    async def _find(self, request: Request) -> RunView:
        return await self._found(request, parse_query(OneQuery, request).namespace)

    async def _found(self, request: Request, namespace: str | None) -> RunView:
        name: str = request.path_params["run"]
        if "\x00" in name:
            raise InvalidInputError("nul-character", "no run has such a name", "run")
        return await self._reads.get_run(caller_of(request).namespace_for(namespace), name)

    def _listed(self, caller: Caller, named: str | None) -> str | None:
        if named == "*" and caller.namespace is None:
            return None
        return caller.namespace_for(named)
