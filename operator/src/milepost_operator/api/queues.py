"""The public API of queues, `/v1/queues`, and what one may do to a waiting run: why does it wait, and bump it."""

from collections.abc import Callable
from typing import Annotated, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import Response

from milepost_operator.api import queueviews
from milepost_operator.api.auth import caller_of
from milepost_operator.api.bodies import json_response, parse_json, parse_query, path_text, read_body
from milepost_operator.api.routes import add_route
from milepost_operator.ports.control import Control, QueueReads
from milepost_operator.ports.store import Reads

MAX_BODY: Final = 65_536
MAX_REASON: Final = 500


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class QueueQuery(_Model):
    """`namespace`: the token's own unless it may name any; `*` in a list: all."""

    namespace: str | None = None


class QueuePauseBody(_Model):
    """`reason`: told to everybody whose run waits."""

    reason: Annotated[str, Field(max_length=MAX_REASON)] = ""


class QueueChangeBody(_Model):
    """`concurrency`: the limit in force from now on, over that of the manifest; null: the manifest's again."""

    concurrency: Annotated[int, Field(ge=1, le=100_000)] | None


class QueuesApi:
    """Handlers of queues and of waits. `poke`: something may be admitted."""

    def __init__(self, control: Control, queues: QueueReads, reads: Reads, *, poke: Callable[[], None]) -> None:
        self._control = control
        self._queues = queues
        self._reads = reads
        self._poke = poke

    def router(self) -> APIRouter:
        """The routes with their documentation; handlers read requests themselves."""
        router = APIRouter(prefix="/v1")
        queues, runs = APIRouter(tags=["queues"]), APIRouter(tags=["runs"])
        listed, one, told = {200: queueviews.QueuesOut}, {200: queueviews.QueueOut}, {200: queueviews.WhyOut}
        query, named = QueueQuery, "/queues/{queue}"
        add_route(queues, "GET", "/queues", self.list_queues, answers=listed, query=query)
        add_route(queues, "GET", named, self.get, answers=one, query=query)
        add_route(queues, "PATCH", named, self.change, answers=one, query=query, body=QueueChangeBody)
        add_route(
            queues,
            "POST",
            f"{named}/pause",
            self.pause,
            answers=one,
            query=query,
            body=QueuePauseBody,
            body_required=False,
        )
        add_route(queues, "POST", f"{named}/resume", self.resume, answers=one, query=query, refusals=(409,))
        add_route(runs, "GET", "/runs/{run}/why", self.why, answers=told, query=query)
        add_route(runs, "POST", "/runs/{run}/bump", self.bump, answers=told, query=query, refusals=(409,))
        router.include_router(queues)
        router.include_router(runs)
        return router

    async def list_queues(self, request: Request) -> Response:
        """All queues of a namespace, by name."""
        caller, query = caller_of(request), parse_query(QueueQuery, request)
        every = query.namespace == "*" and caller.namespace is None
        queues = await self._queues.list_queues(None if every else caller.namespace_for(query.namespace))
        return json_response({"items": [queueviews.queue(one) for one in queues]})

    async def get(self, request: Request) -> Response:
        """One queue: what waits and runs in it, what limits it, who paused it."""
        return await self._shown(*_named(request))

    async def change(self, request: Request) -> Response:
        """Change the limit while the engine runs. It binds at the next admission; what runs goes on."""
        namespace, name = _named(request)
        body = await read_body(request, MAX_BODY, "a change is a small object")
        asked = await parse_json(QueueChangeBody, body)
        await self._control.change_queue(namespace, name, caller_of(request).name, asked.concurrency)
        self._poke()
        return await self._shown(namespace, name)

    async def pause(self, request: Request) -> Response:
        """Admit nothing more; what is admitted and has not started is put back. What runs goes on."""
        namespace, name = _named(request)
        body = await read_body(request, MAX_BODY, f"a reason may have {MAX_REASON} characters")
        asked = await parse_json(QueuePauseBody, body) if body else QueuePauseBody()
        await self._control.pause_queue(namespace, name, caller_of(request).name, asked.reason)
        return await self._shown(namespace, name)

    async def resume(self, request: Request) -> Response:
        """Admit again. 409 when the Queue's manifest pauses it."""
        namespace, name = _named(request)
        await self._control.resume_queue(namespace, name)
        self._poke()
        return await self._shown(namespace, name)

    async def why(self, request: Request) -> Response:
        """The one reason that a run waits for, with its numbers and the next moment that it can change."""
        run = await self._reads.get_run(*_named(request, "run"))
        return json_response(queueviews.why(run, await self._queues.why(run.run_id)))

    async def bump(self, request: Request) -> Response:
        """Put a waiting run at the front of its queue, once. 409 when it does not wait in one."""
        run = await self._reads.get_run(*_named(request, "run"))
        await self._control.bump_run(run.run_id)
        self._poke()
        return json_response(queueviews.why(run, await self._queues.why(run.run_id)))

    async def _shown(self, namespace: str, name: str) -> Response:
        return json_response(queueviews.queue(await self._queues.get_queue(namespace, name)))


def _named(request: Request, what: str = "queue") -> tuple[str, str]:
    """Namespace and name that the request is about."""
    caller, query = caller_of(request), parse_query(QueueQuery, request)
    return caller.namespace_for(query.namespace), path_text(request, what)
