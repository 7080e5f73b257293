"""The schema of a task's input agrees with what `bind` takes, for generated annotations and values."""

import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from inspect import Parameter, Signature
from typing import Any, Literal, Optional, TypedDict
from uuid import UUID

import pydantic
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from milepost import task
from milepost.errors import FatalError
from milepost.schema import input_schema, output_schema, schema_of
from milepost.sdk.task import TaskFunction
from milepost.tags import FRESH
from milepost.typed import read
from milepost.values import pack
from milepost_operator.manifests.schemas import read_schema


class Colour(enum.Enum):
    RED = "red"
    TWO = 2


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Place:
    street: str
    number: int = 1
    tags: list[str] = field(default_factory=list)


@dataclass
class Tree:
    value: int
    children: "list[Tree]" = field(default_factory=list)


class Shape(TypedDict, total=False):
    name: str
    sides: int


class Model(pydantic.BaseModel):
    name: str = pydantic.Field(pattern=r"^[a-z]+$", max_length=5)
    price: Decimal | None = None
    places: list["Model"] = []
    colour: Colour = Colour.RED
    at: datetime | None = None


SCALARS = [bool, str, int, float, None, datetime, date, time, UUID, timedelta, Decimal, bytes]
CLASSES = [Colour, Level, Place, Tree, Shape, Model, Any, Literal["a", 1], Literal[True, Colour.RED], dict, list]
HASHABLE = [bool, str, int, float, date, UUID, Level, Any]

annotations = st.recursive(
    st.sampled_from(SCALARS + CLASSES),
    lambda inner: st.one_of(
        inner.map(lambda one: list[one]),
        inner.map(lambda one: Sequence[one]),
        inner.map(lambda one: dict[str, one]),
        inner.map(lambda one: tuple[one, ...]),
        st.tuples(inner, inner).map(lambda two: tuple[two]),
        st.tuples(inner, inner).map(lambda two: two[0] | two[1] if _joins(two) else two[1]),
        inner.map(lambda one: Optional[one]),  # noqa: UP045  the older spelling is another class
        st.sampled_from(HASHABLE).map(lambda one: set[one]),
    ),
    max_leaves=4,
)


def _joins(two: tuple[Any, Any]) -> bool:
    try:
        two[0] | two[1]
    except TypeError:
        return False
    return True


TEXTS = st.sampled_from(
    ["", "a", "red", "abc", "Abc", "toolong", "2026-01-31", "2026-02-30", "2026-01-31T09:30:00Z", "2026-01-31 09:30:00",
     "09:30:00", "09:30:00.5+01:00", "24:00:00", "1.5", "-3", "1e5", "aGk=", "====", "90.25", "99999999999999",
     "6ba7b810-9dad-11d1-80b4-00c04fd430c8", "0000-01-01T00:00:00", "+.", "."]
)  # fmt: skip
KEYS = st.sampled_from(["street", "number", "tags", "value", "children", "name", "sides", "price", "places", "a", "b"])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([1.0, 2.0, 1.5, 1e300, -0.0, 2**60]), TEXTS, st.text()
)
anything = st.recursive(
    LEAVES, lambda one: st.lists(one, max_size=3) | st.dictionaries(KEYS, one, max_size=3), max_leaves=8
)


def fitting(schema: dict, root: dict) -> st.SearchStrategy:
    """Values that are meant to fit a schema, and often do."""
    if "$ref" in schema:
        return st.deferred(lambda: fitting(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root))
    if "anyOf" in schema:
        return st.one_of([fitting(one, root) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kinds = schema.get("type", "any")
    made = [_of_kind(kind, schema, root) for kind in (kinds if isinstance(kinds, list) else [kinds])]
    return st.one_of(made)


def _of_kind(kind: str, schema: dict, root: dict) -> st.SearchStrategy:
    if kind == "array":
        if "prefixItems" in schema:
            return st.tuples(*[fitting(one, root) for one in schema["prefixItems"]]).map(list)
        return st.lists(fitting(schema.get("items", {}), root), max_size=3)
    if kind == "object":
        known = {name: fitting(one, root) for name, one in schema.get("properties", {}).items() if one is not False}
        needed = {name: known.pop(name) for name in schema.get("required", []) if name in known}
        rest = schema.get("additionalProperties", True)
        named = st.fixed_dictionaries(needed, optional=known)
        if not isinstance(rest, dict):
            return named
        return st.tuples(st.dictionaries(KEYS, fitting(rest, root), max_size=2), named).map(lambda two: two[0] | two[1])
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    whole = st.integers(-3, 3) | st.just(2.0)
    plain = {"string": TEXTS, "integer": whole, "number": numbers, "boolean": st.booleans(), "null": st.none()}
    return plain.get(kind, anything)


def accepts(schema: dict | None, data: object) -> bool:
    return schema is None or read_schema(schema).misfit(data, len(json.dumps(data))) is None


@settings(max_examples=400, deadline=None)
@given(st.data(), annotations)
def test_what_the_schema_of_an_annotation_accepts_is_read_as_it(data, annotation):
    schema = schema_of(annotation)
    value = data.draw(anything | fitting(schema, schema))
    accepted = accepts(schema, value)
    event(f"accepted {accepted}")
    if accepted:
        read(value, FRESH, annotation)


@settings(max_examples=200, deadline=None)
@given(st.data(), annotations)
def test_what_an_annotation_is_recorded_as_its_schema_of_results_accepts(data, annotation):
    schema = schema_of(annotation)
    value = data.draw(fitting(schema, schema))
    assume(accepts(schema, value))
    made = read(value, FRESH, annotation)
    assume(_is_recordable(made))
    assert accepts(schema_of(annotation, "serialization"), json.loads(pack(made).text))


def _is_recordable(value: object) -> bool:
    try:
        pack(value)
    except Exception:  # noqa: BLE001  a set of floats from 1 and 1.0, say: not what is tested here
        return False
    return True


KINDS = [Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY]


@st.composite
def functions(draw: st.DrawFn) -> TaskFunction[..., object]:
    """A task of generated parameters."""
    parameters = [Parameter("ctx", Parameter.POSITIONAL_OR_KEYWORD)] if draw(st.booleans()) else []
    kinds = sorted(draw(st.lists(st.sampled_from(KINDS[1:] if parameters else KINDS), max_size=3)))
    optional = False
    for name, kind in zip("abc", kinds, strict=False):
        optional = draw(st.booleans()) or (optional and kind is not Parameter.KEYWORD_ONLY)
        default = draw(st.sampled_from([None, 1, "x"])) if optional else Parameter.empty
        annotation = draw(annotations | st.just(Parameter.empty))
        parameters.append(Parameter(name, kind, default=default, annotation=annotation))
    if draw(st.booleans()) and not any(one.kind is Parameter.KEYWORD_ONLY for one in parameters):
        parameters.append(Parameter("rest", Parameter.VAR_POSITIONAL, annotation=draw(annotations)))
        parameters.sort(key=lambda one: one.kind)
    if draw(st.booleans()):
        parameters.append(Parameter("more", Parameter.VAR_KEYWORD, annotation=draw(annotations)))

    def fn(*args: object, **kwargs: object) -> object:
        return args, kwargs

    fn.__signature__ = Signature(parameters)
    fn.__annotations__ = {one.name: one.annotation for one in parameters if one.annotation is not Parameter.empty}
    return task(fn)


@settings(max_examples=600, deadline=None)
@given(st.data(), functions())
def test_what_the_schema_of_an_input_accepts_bind_accepts(data, made):
    schema = input_schema(made)
    value = data.draw(anything if schema is None else anything | fitting(schema, schema))
    accepted = accepts(schema, value)
    event(f"accepted {accepted}")
    if accepted:
        made.bind("the context", value)()


def order(ctx, sku: str, count: int = 1, *, at: datetime | None = None) -> Place:
    return Place(f"{ctx}{at}{sku}", count)


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ({"sku": "a"}, True),
        ({"sku": "a", "count": 2.0, "at": "2026-01-31T09:30:00Z"}, True),
        ("a", True),
        ({"sku": 1}, False),
        ({"sku": "a", "at": "tomorrow"}, False),
        ({"sku": "a", "cuont": 1}, False),
        ({}, False),
        (None, False),
        ([], False),
    ],
)
def test_schema_and_bind_say_the_same_of_a_usual_task(given, fits):
    made = task(order)
    assert accepts(input_schema(made), given) is fits
    if fits:
        made.bind(None, given)
    else:
        with pytest.raises(FatalError, match="the input does not fit order"):
            made.bind(None, given)


def test_arguments_arrive_as_their_annotations_say():
    @task
    def job(place: Place, colour: Colour = Colour.RED, when: date | None = None) -> object:
        return place, colour, when

    job.binding.__dict__["hints"] = {"place": Place, "colour": Colour, "when": date | None}
    given = {"place": {"street": "x"}, "colour": 2, "when": "2026-01-31"}
    assert job.bind(None, given)() == (Place("x"), Colour.TWO, date(2026, 1, 31))


def test_a_class_is_made_by_its_init():
    halve = {"__post_init__": lambda self: setattr(self, "half", self.whole / 2)}
    made = make_dataclass("Half", [("whole", int), ("half", float, field(init=False, default=0.0))], namespace=halve)
    assert read({"whole": 3}, FRESH, made).half == 1.5


def test_a_result_without_annotation_has_no_schema():
    assert output_schema(task(folder)) is None
    assert output_schema(task(order)) == {
        "$ref": "#/$defs/Place",
        "$defs": {
            "Place": {
                "type": "object",
                "properties": {
                    "street": {"type": "string"},
                    "number": {"type": "integer", "default": 1},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["street", "number", "tags"],
                "additionalProperties": False,
            }
        },
    }


def folder(folder: str):
    return folder
