"""How a route of the public API is made: its handler, what it takes and what it answers, said once.

Handlers read requests themselves (bodies.py); the OpenAPI document is made of what is said here.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from milepost_operator.api.problems import MEDIA_TYPE, Problem

Handler = Callable[[Request], Awaitable[Response]]

SCHEMAS: Final = "#/components/schemas/{model}"
_USUAL: Final = (401, 403, 422, 429, 503)
"""What any route of ours may say no with: credential, namespace, a wrong field, too much at once, no database."""
_PARAMETER: Final = re.compile(r"\{(\w+)\}")


def add_route(
    router: APIRouter,
    method: str,
    path: str,
    handler: Handler,
    *,
    answers: Mapping[int, type[BaseModel] | None],
    query: type[BaseModel] | None = None,
    body: type[BaseModel] | None = None,
    body_required: bool = True,
    refusals: tuple[int, ...] = (),
    public: bool = False,
) -> None:
    """Add `method path` to `router`. The handler's docstring is its description.

    `answers`: the model of each good answer, by status; None: no body. `query` and `body`: the models that the handler
    parses. `refusals`: statuses of problems beyond the usual (404 for a path with a parameter and 413 for one with a
    body go without saying). `public`: needs no token.
    """
    usual = () if public else _USUAL
    named = (404,) if "{" in path else ()
    sized = (413,) if body else ()
    responses: dict[int | str, dict[str, object]] = {
        status: ({"model": model} if model else {}) | {"description": HTTPStatus(status).phrase}
        for status, model in answers.items()
    }
    responses |= {status: _problem(status) for status in sorted({*usual, *named, *sized, *refusals})}
    extra: dict[str, object] = {"parameters": [*_path_parameters(path), *_query_parameters(query)]}
    if body:
        extra["requestBody"] = {
            "required": body_required,
            "content": {"application/json": {"schema": _reference(body)}},
        }
    if public:
        extra["security"] = []
    router.add_api_route(
        path,
        handler,
        methods=[method],
        status_code=min(answers),
        response_model=None,
        responses=responses,
        openapi_extra=extra,
    )


def _problem(status: int) -> dict[str, object]:
    return {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": _reference(Problem)}}}


def _reference(model: type[BaseModel]) -> dict[str, object]:
    """A reference with the definitions it needs beside it; the document moves those to its components."""
    schema = model.model_json_schema(ref_template=SCHEMAS)
    definitions = {**schema.pop("$defs", {}), model.__name__: schema}
    for one in definitions.values():
        if one.get("type") == "object":  # parsers refuse what they don't know, at any depth
            one.setdefault("additionalProperties", False)
    return {"$ref": SCHEMAS.format(model=model.__name__), "$defs": definitions}


def _path_parameters(path: str) -> list[dict[str, object]]:
    text = {"type": "string", "minLength": 1}
    return [{"name": name, "in": "path", "required": True, "schema": text} for name in _PARAMETER.findall(path)]


def _query_parameters(model: type[BaseModel] | None) -> list[dict[str, object]]:
    """Each field once; one that is a list is there several times (`state=failed&state=timedOut`)."""
    if model is None:
        return []
    schema = model.model_json_schema(ref_template=SCHEMAS)
    definitions = schema.get("$defs", {})
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "schema": {**_without_null(field), "$defs": definitions} if definitions else _without_null(field),
            **({"description": field["description"]} if "description" in field else {}),
        }
        for name, field in schema.get("properties", {}).items()
    ]


def _without_null(field: Mapping[str, object]) -> dict[str, object]:
    """A query parameter that is absent is absent: there is no null in a query."""
    options = field.get("anyOf")
    if not isinstance(options, list):
        return {key: value for key, value in field.items() if key not in {"description", "title"}}
    kept = [option for option in options if option.get("type") != "null"]
    return dict(kept[0]) if len(kept) == 1 else {"anyOf": kept}
