"""The public API of what comes after: cancel many, retry, dead letters."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Final

from fastapi import APIRouter
from orjson import Fragment
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from starlette.requests import Request
from starlette.responses import Response

from milepost_operator.api import views
from milepost_operator.api.auth import caller_of
from milepost_operator.api.bodies import json_response, parse_json, parse_query, path_text, read_body
from milepost_operator.api.cursors import Cursors, scope_of
from milepost_operator.api.filters import MAX_MANY, FilterBody, FilterQuery, required
from milepost_operator.api.routes import add_route
from milepost_operator.domain.errors import InvalidInputError, NotFoundError
from milepost_operator.domain.lifecycle import Redriven
from milepost_operator.domain.runs import RunView
from milepost_operator.ports.lifecycle import Lifecycle, Lists
from milepost_operator.ports.store import Reads

MAX_BODY: Final = 524_288
LAST_RECORDS: Final = 50

Move = Callable[[str, Sequence[str], str], Awaitable[Sequence[Redriven]]]
_RunName = Annotated[str, Field(min_length=1, max_length=253)]
_Many = Field(min_length=1, max_length=MAX_MANY, json_schema_extra={"uniqueItems": True})


def _once(runs: list[str]) -> list[str]:
    if len(set(runs)) != len(runs):
        raise ValueError("a run is named twice")
    return runs


class _Body(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


class OneQuery(BaseModel):
    namespace: str | None = None


class CancelManyBody(_Body):
    """`filter`: which runs, of those that have not ended. `dryRun`: only count. `cursor`: the nextCursor of the call
    before. `limit`: runs of this call.
    """

    filter: FilterBody
    namespace: str | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_MANY)] = MAX_MANY
    cursor: Annotated[str, Field(max_length=128)] | None = None
    dry_run: bool = False


class DeadLettersBody(_Body):
    """Either `runs` (names or ids) or `filter` says which; `limit` and `cursor` go with `filter`."""

    runs: Annotated[list[_RunName], _Many, AfterValidator(_once)] | None = None
    filter: FilterBody | None = None
    namespace: str | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_MANY)] = 100
    cursor: Annotated[str, Field(max_length=128)] | None = None


class LifecycleApi:
    """Handlers. `poke`: something may be admitted."""

    def __init__(
        self, reads: Reads, lists: Lists, lifecycle: Lifecycle, cursors: Cursors, poke: Callable[[], None]
    ) -> None:
        self._reads = reads
        self._lists = lists
        self._lifecycle = lifecycle
        self._cursors = cursors
        self._poke = poke

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/v1")
        runs = APIRouter(tags=["runs"])
        letters = APIRouter(tags=["dead letters"])
        cancelled, moved = {200: views.CancelledOut}, {200: views.DeadLettersMovedOut}
        add_route(runs, "POST", "/runs/cancel", self.cancel_many, answers=cancelled, body=CancelManyBody)
        retried = {201: views.CopiedOut}
        add_route(runs, "POST", "/runs/{run}/retry", self.retry, answers=retried, query=OneQuery, refusals=(409, 410))
        add_route(letters, "GET", "/dead-letters", self.letters, answers={200: views.RunsOut}, query=FilterQuery)
        one = {200: views.DeadLetterOut}
        add_route(letters, "GET", "/dead-letters/{run}", self.letter, answers=one, query=OneQuery)
        add_route(letters, "POST", "/dead-letters/redrive", self.redrive, answers=moved, body=DeadLettersBody)
        add_route(letters, "POST", "/dead-letters/discard", self.discard, answers=moved, body=DeadLettersBody)
        router.include_router(runs)
        router.include_router(letters)
        return router

    async def cancel_many(self, request: Request) -> Response:
        """Ask for the end of the newest `limit` runs of a filter, a few in each transaction; go on with `nextCursor`.

        Only runs that have not ended and were not told to are matched.
        """
        caller = caller_of(request)
        asked = await parse_json(CancelManyBody, await read_body(request, MAX_BODY, "name fewer conditions"))
        namespace = caller.namespace_for(asked.namespace)
        condition, scope = required(asked.filter), scope_of("cancel", namespace, asked.filter)
        before = self._cursors.read(asked.cursor, scope)
        found = await self._lists.find_live(namespace, condition, before, asked.limit)
        cancelled = 0
        if found.run_ids and not asked.dry_run:
            cancelled = await self._lifecycle.cancel_many(namespace, found.run_ids, caller.name)
            self._poke()
        answer = {
            "matched": len(found.run_ids),
            "cancelled": cancelled,
            "dryRun": asked.dry_run,
            "nextCursor": self._cursors.sign(found.following, scope),
        }
        return json_response(answer)

    async def retry(self, request: Request) -> Response:
        """Make a new run of an ended one: same input and options, resumed after the last record that there is."""
        run = await self._find(request)
        copied = await self._lifecycle.retry_run(run.run_id, caller_of(request).name)
        self._poke()
        location = f"/v1/runs/{copied.run_id}?namespace={copied.namespace}"
        return json_response(views.copied(copied), 201, {"Location": location})

    async def letters(self, request: Request) -> Response:
        """Runs that failed for good and wait for someone's decision, the newest first."""
        query = parse_query(FilterQuery, request)
        namespace = caller_of(request).namespace_for(query.namespace)
        scope = scope_of("dead-letters", namespace, query)
        before = self._cursors.read(query.cursor, scope)
        page = await self._lists.dead_letters(namespace, query.parsed(), before, query.limit)
        return json_response({"items": Fragment(page.shown), "nextCursor": self._cursors.sign(page.following, scope)})

    async def letter(self, request: Request) -> Response:
        """One dead letter: the run with its input and error, its attempts, and the keys of its last records."""
        run = await self._find(request)
        if not run.dead_lettered:
            made = f"; it was redriven as run {run.redriven_by}" if run.redriven_by else ""
            raise NotFoundError(f"run {run.name} is not a dead letter{made}")
        attempts = await self._reads.get_attempts(run.run_id)
        records = await self._lists.last_records(run.run_id, LAST_RECORDS)
        return json_response(views.dead_letter(run, attempts, records))

    async def redrive(self, request: Request) -> Response:
        """Make one new run of each dead letter, resumed after its last record; it leaves the queue with that."""
        answer = await self._moved(request, self._lifecycle.redrive)
        self._poke()
        return answer

    async def discard(self, request: Request) -> Response:
        """Take dead letters off the queue for good. Their runs stay as failed ones, as long as retention says."""
        return await self._moved(request, self._lifecycle.discard)

    async def _moved(self, request: Request, move: Move) -> Response:
        caller = caller_of(request)
        asked = await parse_json(DeadLettersBody, await read_body(request, MAX_BODY, f"name at most {MAX_MANY} runs"))
        namespace = caller.namespace_for(asked.namespace)
        if (asked.runs is None) == (asked.filter is None):
            raise InvalidInputError("one-of", "give either runs or filter", "$")
        following = None
        runs: Sequence[str] = asked.runs or ()
        if asked.filter is not None:
            scope = scope_of("move-dead-letters", namespace, asked.filter)
            before = self._cursors.read(asked.cursor, scope)
            page = await self._lists.dead_letters(namespace, required(asked.filter), before, asked.limit)
            runs = [str(item["id"]) for item in page.items]
            following = self._cursors.sign(page.following, scope)
        done = await move(namespace, runs, caller.name)
        return json_response({"items": [views.moved(one) for one in done], "nextCursor": following})

    async def _find(self, request: Request) -> RunView:
        query = parse_query(OneQuery, request)
        namespace = caller_of(request).namespace_for(query.namespace)
        return await self._reads.get_run(namespace, path_text(request, "run"))
