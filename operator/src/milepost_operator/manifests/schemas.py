"""JSON Schemas of Tasks, as values are checked against them."""

import json

import orjson
from pydantic_core import SchemaError, SchemaValidator, core_schema

from milepost.wire.values import JSON
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.schema.compiled import Schema, compiled
from milepost_operator.domain.schema.walk import Matcher


def read_schema(value: JSON) -> Schema:
    """Raises InvalidInputError (`invalid-schema`) with the place of what can't be taken."""
    return compiled(value, _regex)


def schema_text(value: JSON) -> str:
    """The text that a schema is known by: the same for equal schemas."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _regex(pattern: str) -> Matcher:
    """By Rust's engine, which takes linear time and so knows no look-around and no backreferences."""
    try:
        validator = SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError as error:
        raise ValueError(" ".join(str(error).partition("SchemaError: ")[2].split())) from error
    matcher: Matcher = validator.isinstance_python
    return matcher


def mismatch(schema: Schema, task: str, text: str) -> InvalidInputError | None:
    """What is wrong with an input (JSON text); `$` in the sentence is the input, its path begins with `$.input`."""
    found = schema.misfit(orjson.loads(text), len(text))
    if found is None:
        return None
    message = f"the input does not fit Task {task}: {found.path()} {found.message}"
    return InvalidInputError("input-mismatch", message, found.path("$.input"))
