"""Requests in, JSON out: sizes are bounded before they are read, a wrong field is named with the right ones."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar, get_args, get_origin

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from milepost.wire.values import member
from milepost_operator.api.values import decoded, require_value
from milepost_operator.domain.errors import InvalidInputError, TooLargeError

Model = TypeVar("Model", bound=BaseModel)
Wire = TypeVar("Wire")


async def read_body(request: Request, limit: int, hint: str) -> bytes:
    """The body, of at most `limit` bytes; `hint` ends the refusal. Raises TooLargeError without reading it all."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit, hint)
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        event = await request.receive()
        if event["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = event.get("body", b"")
        more = event.get("more_body", False)
        size += len(chunk)
        if size > limit:
            raise _too_large(limit, hint)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int, hint: str) -> TooLargeError:
    return TooLargeError("body-too-large", f"the body has more than {limit} bytes; {hint}")


def parse_wire(adapter: TypeAdapter[Wire], body: bytes) -> Wire:
    """A record of the pod protocol. Types are strict; unknown fields pass, since a sidecar may be newer than we are."""
    try:
        return adapter.validate_json(body, strict=True)
    except ValidationError as error:
        raise _invalid(error, None) from error


def parse_object(model: type[Model], value: object) -> Model:
    """A body of the public API, by the JSON names of its fields: strict, and no field that we don't know."""
    if not isinstance(value, dict):
        raise InvalidInputError("not-an-object", "the body has to be a JSON object", "$")
    try:
        return model.model_validate(value, strict=True, extra="forbid")
    except ValidationError as error:
        raise _invalid(error, model) from error


async def parse_body(body: bytes) -> object:
    """A body with values of users in it: JSON as we keep it, and no key twice. InvalidInputError."""
    return await decoded(body, "the body")


async def parse_json(model: type[Model], body: bytes) -> Model:
    """A body without values of users in it: strict, and no field that we don't know."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError("not-json", f"the body is not UTF-8: {error}", "$") from error
    await require_value(text, len(body), "body-too-large", "the body")
    try:
        return model.model_validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        raise _invalid(error, model) from error


def path_text(request: Request, name: str) -> str:
    """A parameter of the path, as text that may be asked for."""
    value: str = request.path_params[name]
    if "\x00" in value:
        raise InvalidInputError("nul-character", f"{name}: there is no such name", name)
    return value


def parse_query(model: type[Model], request: Request) -> Model:
    """Query parameters: each at most once unless its field is a list, none that we don't know."""
    several = {
        field.alias or name for name, field in model.model_fields.items() if get_origin(field.annotation) is list
    }
    given: dict[str, str | list[str]] = {}
    for name, value in request.query_params.multi_items():
        if "\x00" in value:
            raise InvalidInputError("nul-character", f"the query parameter {name!r} has a U+0000", name)
        if name in several:
            given[name] = [*given.get(name, ()), value]
        elif name in given:
            raise InvalidInputError("repeated", f"the query parameter {name!r} is there twice", name)
        else:
            given[name] = value
    try:
        return model.model_validate(given, extra="forbid")
    except ValidationError as error:
        raise _invalid(error, model) from error


def json_response(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value`: anything that orjson writes (dataclasses, datetimes, UUIDs, Fragments)."""
    return Response(orjson.dumps(value), status, headers, "application/json")


def _fields(model: type[BaseModel] | None, place: tuple[int | str, ...]) -> tuple[str, ...]:
    """The fields of the object at `place` within a body of this model."""
    for part in place:
        if model is None:
            return ()
        field = next((f for name, f in model.model_fields.items() if part in {f.alias, name}), None)
        options = get_args(field.annotation) or (field.annotation,) if field else ()
        model = next((one for one in options if isinstance(one, type) and issubclass(one, BaseModel)), None)
    return tuple(field.alias or name for name, field in model.model_fields.items()) if model else ()


def _invalid(failed: ValidationError, model: type[BaseModel] | None) -> InvalidInputError:
    found = failed.errors(include_url=False, include_input=False)
    # A field that we don't know is often the one that is missing, under another name: say that first.
    error = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    path = "$"
    for part in error["loc"]:
        path = f"{path}[{part}]" if isinstance(part, int) else member(path, part)
    if error["type"] == "extra_forbidden":
        name, allowed = str(error["loc"][-1]), _fields(model, error["loc"][:-1])
        near = get_close_matches(name, allowed, 1) or get_close_matches(_camel(name), allowed, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ";"
        return InvalidInputError("unknown-field", f"unknown field {name!r}{meant} allowed: {', '.join(allowed)}", path)
    if error["type"] == "missing":
        return InvalidInputError("missing-field", f"the field {error['loc'][-1]!r} is missing", path)
    if error["type"] == "json_invalid":
        return InvalidInputError("not-json", error["msg"], "$")
    return InvalidInputError("invalid-field", f"{path}: {error['msg']}", path)


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first.lower() + "".join(word.capitalize() for word in rest)
