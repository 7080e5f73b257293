"""The public API of runs, `/v1/runs`: create, list, look, cancel."""

from collections.abc import Callable, Sequence
from typing import Annotated, Final

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import Response

from milepost_operator.api import views
from milepost_operator.api.auth import caller_of
from milepost_operator.api.bodies import body_docs, json_response, parse_object, parse_query, query_docs, read_body
from milepost_operator.api.tokens import Caller
from milepost_operator.api.values import require_size, require_value
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.ids import MAX_NAME
from milepost_operator.domain.runs import Created, NewRun, RunView
from milepost_operator.domain.states import RunState
from milepost_operator.obs.metrics import Metrics
from milepost_operator.ports.store import Intake, Reads

_DNS: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_ENVELOPE: Final = 65_536
MAX_PAGE: Final = 500

Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME, pattern=_DNS)]
Tag = Annotated[str, Field(min_length=1, max_length=128)]


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class TriggerBody(_Model):
    """`input`: any JSON, null unless given. `namespace`: the token's own unless it may name any."""

    task: Annotated[str, Field(min_length=1, max_length=253, pattern=_DNS)]
    input: object = None
    namespace: Name | None = None
    name: Name | None = None
    idempotency_key: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    tags: Annotated[list[Tag], Field(max_length=32)] = []


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


class RunsApi:
    """Handlers of `/v1/runs`. `namespaces`: those that are served, empty for all. `poke`: something may be admitted."""

    def __init__(
        self,
        intake: Intake,
        reads: Reads,
        *,
        max_input_bytes: int,
        namespaces: Sequence[str],
        metrics: Metrics,
        poke: Callable[[], None],
    ) -> None:
        self._intake = intake
        self._reads = reads
        self._max_input = max_input_bytes
        self._namespaces = frozenset(namespaces)
        self._metrics = metrics
        self._poke = poke

    def router(self) -> APIRouter:
        """The routes with their documentation; handlers read requests themselves."""
        router = APIRouter(prefix="/v1/runs", tags=["runs"])
        router.add_api_route(
            "",
            self.create,
            methods=["POST"],
            status_code=201,
            response_model=None,
            responses={201: {"model": views.CreatedOut}, 200: {"model": views.CreatedOut, "description": "Duplicate"}},
            openapi_extra=body_docs(TriggerBody),
        )
        for path, handler, method, status, model, query in (
            ("", self.list_runs, "GET", 200, views.RunsOut, ListQuery),
            ("/{run}", self.get, "GET", 200, views.RunOut, OneQuery),
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

    async def create(self, request: Request) -> Response:
        """Create a run: 201, or 200 with the run that the idempotency key already has."""
        caller = caller_of(request)
        body = await read_body(request, 2 * self._max_input + _ENVELOPE, f"an input may have {self._max_input}")
        asked = await self._parse(body)
        namespace = self._served(caller.namespace_for(asked.namespace))
        text = orjson.dumps(asked.input).decode()
        await require_size(text, self._max_input, "input-too-large", "the input", "$.input")
        run = await self._intake.create_run(
            NewRun(
                namespace=namespace,
                task=asked.task,
                input=text,
                name=asked.name,
                idempotency_key=asked.idempotency_key,
                tags=tuple(asked.tags),
            ),
        )
        self._created(run)
        headers = {"Location": f"/v1/runs/{run.run_id}?namespace={namespace}"}
        return json_response(views.created(run, namespace, asked.task), 200 if run.duplicate else 201, headers)

    async def _parse(self, body: bytes) -> TriggerBody:
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise InvalidInputError("not-json", f"the body is not UTF-8: {error}", "$") from error
        await require_value(text, len(body), "body-too-large", "the body")
        return parse_object(TriggerBody, orjson.loads(body))

    def _created(self, run: Created) -> None:
        self._metrics.runs_created.labels("duplicate" if run.duplicate else "created").inc()
        if not run.duplicate:
            self._poke()

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
        """One run by name or id, with input, result and error."""
        return json_response(views.full(await self.find(request)))

    async def attempts(self, request: Request) -> Response:
        """The attempts of a run, oldest first."""
        run = await self.find(request)
        return json_response({"items": [views.attempt(a) for a in await self._reads.get_attempts(run.run_id)]})

    async def cancel(self, request: Request) -> Response:
        """Ask for the run's end: 202 with the run as it is now; a run that has ended stays as it is."""
        run = await self.find(request)
        await self._intake.cancel_run(run.run_id, caller_of(request).name)
        self._poke()
        return json_response(views.full(await self._reads.get_run(run.namespace, str(run.run_id))), 202)

    async def find(self, request: Request) -> RunView:
        """The run that the path names, in the caller's namespace. Raises NotFoundError."""
        caller, query = caller_of(request), parse_query(OneQuery, request)
        name: str = request.path_params["run"]
        if "\x00" in name:
            raise InvalidInputError("nul-character", "no run has such a name", "run")
        return await self._reads.get_run(caller.namespace_for(query.namespace), name)

    def _listed(self, caller: Caller, named: str | None) -> str | None:
        if named == "*" and caller.namespace is None:
            return None
        return caller.namespace_for(named)

    def _served(self, namespace: str) -> str:
        if self._namespaces and namespace not in self._namespaces:
            message = f"namespace {namespace!r} is not served; served: {', '.join(sorted(self._namespaces))}"
            raise InvalidInputError("namespace-not-served", message, "$.namespace")
        return namespace
