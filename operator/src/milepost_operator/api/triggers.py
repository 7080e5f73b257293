"""Making runs by HTTP: one (`POST /v1/runs`) and many (`POST /v1/runs/batch`)."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from milepost_operator.api import views
from milepost_operator.api.auth import caller_of
from milepost_operator.api.batcher import Batcher
from milepost_operator.api.bodies import json_response, parse_body, read_body
from milepost_operator.api.direct import Handler
from milepost_operator.api.options import BatchBody, TriggerBody, parse_trigger, run_of
from milepost_operator.api.problems import described
from milepost_operator.api.routes import add_route
from milepost_operator.api.tokens import Caller
from milepost_operator.api.values import require_size
from milepost_operator.domain.errors import InvalidInputError, MilepostError, OverloadedError
from milepost_operator.domain.runs import Created, NewRun
from milepost_operator.domain.triggers import MAX_BATCH
from milepost_operator.obs.metrics import Metrics
from milepost_operator.ports.triggers import Triggers

ENVELOPE: Final = 65_536
MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
MAX_BATCHES: Final = 8
"""Batches under way in this process at once: their bodies are what may be large here."""
YIELD_EVERY: Final = 50
_PATH: Final = "/v1/runs"


class TriggersApi:
    """Plain handlers: the hot path. `namespaces`: those that are served, empty for all. `poke`: runs came."""

    def __init__(
        self,
        store: Triggers,
        *,
        max_input_bytes: int,
        namespaces: Sequence[str],
        metrics: Metrics,
        poke: Callable[[], None],
    ) -> None:
        self._store = store
        self._max_input = max_input_bytes
        self._namespaces = frozenset(namespaces)
        self._metrics = metrics
        self._poke = poke
        self._batches = 0
        requests, seconds = metrics.batch_requests.labels("runs"), metrics.batch_seconds.labels("runs")

        def observe(count: int, took: float) -> None:
            requests.observe(count)
            seconds.observe(took)

        self._one: Batcher[NewRun, Created] = Batcher(store.create_runs, observe)

    def direct(self) -> dict[tuple[str, str], Handler]:
        """Handlers by method and path."""
        return {("POST", _PATH): self.create, ("POST", f"{_PATH}/batch"): self.create_batch}

    def router(self) -> APIRouter:
        """The documentation of the same; requests never come here."""
        router = APIRouter(prefix=_PATH, tags=["runs"])
        made = {201: views.CreatedOut, 200: views.CreatedOut}
        add_route(router, "POST", "", self.create, answers=made, body=TriggerBody, refusals=(409,))
        add_route(router, "POST", "/batch", self.create_batch, answers={200: views.BatchOut}, body=BatchBody)
        return router

    async def create(self, request: Request) -> Response:
        """Create a run: 201, or 200 with the run that the call's key already has."""
        caller = caller_of(request)
        limit = 2 * self._max_input + ENVELOPE
        body = await read_body(request, limit, f"an input may have {self._max_input}")
        run = await self._run(caller, await parse_body(body))
        made = await self._one.submit(run, size=len(body))
        self._count([made])
        headers = {"Location": f"{_PATH}/{made.run_id}?namespace={run.namespace}"}
        return json_response(views.created(made, run.namespace, run.task), 200 if made.duplicate else 201, headers)

    async def create_batch(self, request: Request) -> Response:
        """Create 1 to 1,000 runs in one transaction: 200 with an answer for each, in order."""
        caller = caller_of(request)
        if self._batches >= MAX_BATCHES:
            raise OverloadedError("too many batches are under way here")
        self._batches += 1
        try:
            hint = f"a batch may have {MAX_BATCH_BYTES} in all: send several"
            value = await parse_body(await read_body(request, MAX_BATCH_BYTES, hint))
            return json_response(await self._create_batch(caller, _items(value)))
        finally:
            self._batches -= 1

    async def _create_batch(self, caller: Caller, values: Sequence[object]) -> dict[str, object]:
        answers: dict[int, Created | MilepostError] = {}
        runs: dict[int, NewRun] = {}
        for index, value in enumerate(values):
            try:
                runs[index] = await self._run(caller, value, f"$.items[{index}]")
            except MilepostError as error:
                answers[index] = error
            if index % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)  # others' requests are not to wait for the whole batch
        if runs:
            made = await self._store.create_runs(list(runs.values()), together=True)
            answers |= {index: _placed(answer, index) for index, answer in zip(runs, made, strict=True)}
        created = [answer for answer in answers.values() if isinstance(answer, Created)]
        self._count(created)
        duplicates = sum(answer.duplicate for answer in created)
        return {
            "created": len(created) - duplicates,
            "duplicates": duplicates,
            "refused": len(values) - len(created),
            "items": [_answer(answers[index], runs.get(index)) for index in range(len(values))],
        }

    async def _run(self, caller: Caller, value: object, path: str = "$") -> NewRun:
        try:
            body = parse_trigger(value)
            run = run_of(body, self._served(caller, body))
        except InvalidInputError as error:
            if path == "$" or error.path is None:
                raise
            where = path + error.path.removeprefix("$")
            raise type(error)(error.code, str(error).replace(error.path, where), where) from error
        await require_size(run.input, self._max_input, "input-too-large", "the input", f"{path}.input")
        return run

    def _served(self, caller: Caller, body: TriggerBody) -> str:
        namespace = caller.namespace_for(body.namespace)
        if self._namespaces and namespace not in self._namespaces:
            message = f"namespace {namespace!r} is not served; served: {', '.join(sorted(self._namespaces))}"
            raise InvalidInputError("namespace-not-served", message, "$.namespace")
        return namespace

    def _count(self, made: Sequence[Created]) -> None:
        duplicates = sum(one.duplicate for one in made)
        if duplicates:
            self._metrics.runs_created.labels("duplicate").inc(duplicates)
        if duplicates < len(made):
            self._metrics.runs_created.labels("created").inc(len(made) - duplicates)
            self._poke()


def _items(value: object) -> list[object]:
    """The triggers of a batch. Raises InvalidInputError for what is no batch at all."""
    if not isinstance(value, dict):
        raise InvalidInputError("not-an-object", "the body has to be a JSON object with items", "$")
    unknown = next((name for name in value if name != "items"), None)
    if unknown is not None:
        raise InvalidInputError("unknown-field", f"unknown field {unknown!r}; allowed: items", f"$.{unknown}")
    items = value.get("items")
    if not isinstance(items, list):
        raise InvalidInputError("missing-field", "items has to be a list of triggers", "$.items")
    if not 1 <= len(items) <= MAX_BATCH:
        message = f"a batch has 1 to {MAX_BATCH} items and this one {len(items)}: send several batches"
        raise InvalidInputError("batch-size", message, "$.items")
    return items


def _placed(answer: Created | MilepostError, index: int) -> Created | MilepostError:
    """An error with its path in the batch."""
    if isinstance(answer, InvalidInputError) and answer.path is not None:
        answer.path = f"$.items[{index}]{answer.path.removeprefix('$')}"
    return answer


def _answer(answer: Created | MilepostError, run: NewRun | None) -> dict[str, object]:
    if isinstance(answer, Created) and run is not None:
        run_view = views.created(answer, run.namespace, run.task)
        return {"status": 200 if answer.duplicate else 201, "run": run_view}
    if not isinstance(answer, MilepostError):
        raise TypeError(f"no answer to a trigger: {answer!r}")
    status, body, headers = described(answer)
    retry = headers.get("Retry-After")
    return {"status": status, "error": body} | ({"retryAfterSeconds": int(retry)} if retry else {})
