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
from milepost_operator.api.bodies import json_response, parse_object, parse_query, path_text, read_body
from milepost_operator.api.cursors import Cursors, scope_of
from milepost_operator.api.filters import FilterQuery
from milepost_operator.api.queueviews import reason
from milepost_operator.api.routes import add_route
from milepost_operator.api.tokens import Caller
from milepost_operator.api.values import require_size, require_value
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.ids import MAX_NAME
from milepost_operator.domain.runs import Created, NewRun, RunView
from milepost_operator.domain.states import TERMINAL
from milepost_operator.obs.metrics import Metrics
from milepost_operator.ports.control import QueueReads
from milepost_operator.ports.lifecycle import Lists
from milepost_operator.ports.store import Intake, Reads

_DNS: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_ENVELOPE: Final = 65_536

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


class OneQuery(_Model):
    namespace: str | None = None


class RunsApi:
    """Handlers of `/v1/runs`. `namespaces`: those that are served, empty for all. `poke`: something may be admitted."""

    def __init__(
        self,
        intake: Intake,
        reads: Reads,
        queues: QueueReads,
        lists: Lists,
        cursors: Cursors,
        *,
        max_input_bytes: int,
        namespaces: Sequence[str],
        metrics: Metrics,
        poke: Callable[[], None],
    ) -> None:
        self._intake = intake
        self._reads = reads
        self._queues = queues
        self._lists = lists
        self._cursors = cursors
        self._max_input = max_input_bytes
        self._namespaces = frozenset(namespaces)
        self._metrics = metrics
        self._poke = poke

    def router(self) -> APIRouter:
        """The routes with what they take and answer."""
        router = APIRouter(prefix="/v1/runs", tags=["runs"])
        created = {201: views.CreatedOut, 200: views.CreatedOut}
        add_route(router, "POST", "", self.create, answers=created, body=TriggerBody, refusals=(409,))
        add_route(router, "GET", "", self.list_runs, answers={200: views.RunsOut}, query=FilterQuery)
        add_route(router, "GET", "/{run}", self.get, answers={200: views.RunOut}, query=OneQuery)
        add_route(router, "GET", "/{run}/attempts", self.attempts, answers={200: views.AttemptsOut}, query=OneQuery)
        add_route(router, "POST", "/{run}/cancel", self.cancel, answers={202: views.RunOut}, query=OneQuery)
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
        """Newest first (by their end, where a range of ends is asked for); go on with `nextCursor` until it is null.

        Namespace `*`: all, for tokens that may name any. A page of a search by `error` looks through some thousand runs
        at most, so that it may have few items, or none, and still a `nextCursor`.
        """
        caller, query = caller_of(request), parse_query(FilterQuery, request)
        namespace = self._listed(caller, query.namespace)
        scope = scope_of("runs", namespace, query)
        before = self._cursors.read(query.cursor, scope)
        page = await self._lists.page(namespace, query.parsed(), before, query.limit)
        return json_response({"items": page.items, "nextCursor": self._cursors.sign(page.following, scope)})

    async def get(self, request: Request) -> Response:
        """One run by name or id, with input, result and error, and why it waits."""
        return await self._whole(await self.find(request))

    async def attempts(self, request: Request) -> Response:
        """The attempts of a run, oldest first."""
        run = await self.find(request)
        return json_response({"items": [views.attempt(a) for a in await self._reads.get_attempts(run.run_id)]})

    async def cancel(self, request: Request) -> Response:
        """Ask for the run's end: 202 with the run as it is now; a run that has ended stays as it is."""
        run = await self.find(request)
        await self._intake.cancel_run(run.run_id, caller_of(request).name)
        self._poke()
        return await self._whole(await self._reads.get_run(run.namespace, str(run.run_id)), 202)

    async def _whole(self, run: RunView, status: int = 200) -> Response:
        why = None if run.state in TERMINAL else await self._queues.why(run.run_id)
        return json_response(views.full(run) | {"why": reason(why)}, status)

    async def find(self, request: Request) -> RunView:
        """The run that the path names, in the caller's namespace. Raises NotFoundError."""
        caller, query = caller_of(request), parse_query(OneQuery, request)
        return await self._reads.get_run(caller.namespace_for(query.namespace), path_text(request, "run"))

    def _listed(self, caller: Caller, named: str | None) -> str | None:
        if named == "*" and caller.namespace is None:
            return None
        return caller.namespace_for(named)

    def _served(self, namespace: str) -> str:
        if self._namespaces and namespace not in self._namespaces:
            message = f"namespace {namespace!r} is not served; served: {', '.join(sorted(self._namespaces))}"
            raise InvalidInputError("namespace-not-served", message, "$.namespace")
        return namespace
