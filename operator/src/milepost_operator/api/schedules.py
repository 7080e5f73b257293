"""The public API of schedules, `/v1/schedules`: make, look, change, pause, backfill."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from milepost_operator.api.auth import caller_of
from milepost_operator.api.bodies import json_response, parse_body, parse_object, parse_query, read_body
from milepost_operator.api.routes import add_route
from milepost_operator.api.schedule_views import (
    BackfillBody,
    BackfillOut,
    ListQuery,
    OneQuery,
    ScheduleBody,
    ScheduleChangeBody,
    ScheduleOut,
    SchedulesOut,
    as_given,
    cursor_after,
    parse_cursor,
    schedule_out,
)
from milepost_operator.api.tokens import Caller
from milepost_operator.crds.schedule import ScheduleSettings
from milepost_operator.domain.errors import InvalidInputError, NotFoundError
from milepost_operator.domain.schedules import ScheduleSpec, check_time
from milepost_operator.manifests.schedules import MAX_INPUT_BYTES, schedule_of
from milepost_operator.ports.schedules import ScheduleApi

MAX_BODY: Final = 4 * MAX_INPUT_BYTES


class SchedulesApi:
    """Handlers of `/v1/schedules`. `namespaces`: those that are served, empty for all."""

    def __init__(self, store: ScheduleApi, *, namespaces: Sequence[str]) -> None:
        self._store = store
        self._namespaces = frozenset(namespaces)

    def router(self) -> APIRouter:
        """The routes with their documentation; handlers read requests themselves."""
        router = APIRouter(prefix="/v1/schedules", tags=["schedules"])
        named = "/{schedule}"
        made, listed, one = {201: ScheduleOut}, {200: SchedulesOut}, {200: ScheduleOut}
        add_route(router, "POST", "", self.create, answers=made, body=ScheduleBody, refusals=(409,))
        add_route(router, "GET", "", self.list_schedules, answers=listed, query=ListQuery)
        add_route(router, "GET", named, self.get, answers=one, query=OneQuery)
        add_route(
            router, "PATCH", named, self.change, answers=one, query=OneQuery, body=ScheduleChangeBody, refusals=(409,)
        )
        add_route(router, "DELETE", named, self.delete, answers={204: None}, query=OneQuery, refusals=(409,))
        add_route(router, "POST", f"{named}/pause", self.pause, answers=one, query=OneQuery)
        add_route(router, "POST", f"{named}/resume", self.resume, answers=one, query=OneQuery)
        filled = {200: BackfillOut}
        add_route(router, "POST", f"{named}/backfill", self.backfill, answers=filled, query=OneQuery, body=BackfillBody)
        return router

    async def create(self, request: Request) -> Response:
        """Make a schedule of a Task: it fires from its next slot on."""
        asked = parse_object(ScheduleBody, await parse_body(await _read(request)))
        caller = caller_of(request)
        namespace = self._served(caller.namespace_for(asked.namespace))
        made = await self._store.create_schedule(namespace, asked.task, asked.name, _spec(asked), caller.name)
        headers = {"Location": f"/v1/schedules/{made.schedule_id}?namespace={namespace}"}
        return json_response(schedule_out(made), 201, headers)

    async def list_schedules(self, request: Request) -> Response:
        """By Task and name; go on with `nextCursor` until it is null."""
        caller, query = caller_of(request), parse_query(ListQuery, request)
        found = await self._store.list_schedules(
            _listed(caller, query.namespace),
            task=query.task,
            after=parse_cursor(query.cursor) if query.cursor is not None else None,
            limit=query.limit + 1,
        )
        page = found[: query.limit]
        cursor = cursor_after(page[-1]) if len(found) > query.limit else None
        return json_response({"items": [schedule_out(one) for one in page], "nextCursor": cursor})

    async def get(self, request: Request) -> Response:
        """One schedule by its id."""
        return json_response(schedule_out(await self._store.get_schedule(*_named(request))))

    async def change(self, request: Request) -> Response:
        """Change what is named. New times count from now: nothing before is missed."""
        named = _named(request)
        body = await parse_body(await _read(request))
        given = parse_object(ScheduleChangeBody, body)

        def edit(before: ScheduleSpec) -> ScheduleSpec:
            fields = given.model_dump(by_alias=True, exclude_unset=True)
            try:
                return _spec(ScheduleSettings.model_validate(as_given(before) | fields))
            except ValidationError as error:
                raise InvalidInputError("missing-field", "a schedule needs a cron", "$.cron") from error

        return json_response(schedule_out(await self._store.change_schedule(*named, edit, caller_of(request).name)))

    async def delete(self, request: Request) -> Response:
        """No further slot fires; its runs stay."""
        await self._store.delete_schedule(*_named(request))
        return Response(status_code=204)

    async def pause(self, request: Request) -> Response:
        """Nothing fires until it is resumed, and nothing is missed."""
        return await self._pause(request, paused=True)

    async def resume(self, request: Request) -> Response:
        """Fire again, from the next slot on."""
        return await self._pause(request, paused=False)

    async def backfill(self, request: Request) -> Response:
        """A run for each slot of a range in the past that has none; the same call again makes none twice."""
        named = _named(request)
        asked = parse_object(BackfillBody, await parse_body(await _read(request)))
        for path, at in (("$.from", asked.since), ("$.to", asked.until)):
            check_time(at, path)
        if asked.since >= asked.until:
            raise InvalidInputError("invalid-field", "to must be after from", "$.to")
        done = await self._store.backfill(*named, asked.since, asked.until, dry_run=asked.dry_run)
        return json_response(
            {
                "slots": done.slots,
                "created": done.created,
                "existing": done.existing,
                "first": done.first,
                "last": done.last,
                "dryRun": asked.dry_run,
            },
        )

    async def _pause(self, request: Request, *, paused: bool) -> Response:
        named, who = _named(request), caller_of(request).name
        return json_response(schedule_out(await self._store.pause_schedule(*named, who, paused=paused)))

    def _served(self, namespace: str) -> str:
        if self._namespaces and namespace not in self._namespaces:
            message = f"namespace {namespace!r} is not served; served: {', '.join(sorted(self._namespaces))}"
            raise InvalidInputError("namespace-not-served", message, "$.namespace")
        return namespace


async def _read(request: Request) -> bytes:
    return await read_body(request, MAX_BODY, f"an input may have {MAX_INPUT_BYTES}")


def _named(request: Request) -> tuple[str, UUID]:
    """Namespace and id."""
    caller, query = caller_of(request), parse_query(OneQuery, request)
    text: str = request.path_params["schedule"]
    try:
        return caller.namespace_for(query.namespace), UUID(text)
    except ValueError as error:
        raise NotFoundError("no schedule has such an id: list them with GET /v1/schedules?task=…") from error


def _spec(given: ScheduleSettings) -> ScheduleSpec:
    try:
        return schedule_of(given)
    except InvalidInputError as error:
        error.path = f"$.{error.path}"
        raise


def _listed(caller: Caller, named: str | None) -> str | None:
    if named == "*" and caller.namespace is None:
        return None
    return caller.namespace_for(named)
