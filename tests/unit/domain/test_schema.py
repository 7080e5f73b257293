"""Checks against JSON Schemas: the same verdicts as the reference, and a cost that is bounded whoever wrote them."""

import json
import time
import warnings

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.schema.patterns import weight
from milepost_operator.manifests.schemas import mismatch, read_schema

BOUND = 2.0
"""Seconds of CPU that nothing here may take on a slow machine; most of it takes milliseconds."""


def misfit(schema, value):
    found = read_schema(schema).misfit(value, len(json.dumps(value)))
    return None if found is None else f"{found.path()} {found.message}"


NAMES = st.sampled_from("ab")
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([1.0, 0.5, "a", "ab", "b1"]))
VALUES = st.recursive(
    SCALARS, lambda one: st.lists(one, max_size=3) | st.dictionaries(NAMES, one, max_size=2), max_leaves=6
)
COUNTS = st.integers(0, 3)
LEAVES = st.one_of(
    st.booleans(),
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"])
            | st.just(["string", "null"]),
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "minimum": st.integers(-1, 1),
            "exclusiveMaximum": st.integers(-1, 2),
            "multipleOf": st.sampled_from([1, 2, 0.5]),
            "minLength": COUNTS,
            "maxLength": COUNTS,
            "pattern": st.sampled_from(["^a", "b$", "[0-9]"]),
        },
    ),
    st.just({"$ref": "#/$defs/tree"}),
)


def _deeper(one: st.SearchStrategy) -> st.SearchStrategy:
    some = st.lists(one, min_size=1, max_size=2)
    return st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(NAMES, one, max_size=2),
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b"]), one, max_size=1),
            "additionalProperties": one,
            "propertyNames": one,
            "required": st.lists(NAMES, unique=True, max_size=2),
            "dependentRequired": st.dictionaries(NAMES, st.lists(NAMES, unique=True, max_size=1), max_size=1),
            "dependentSchemas": st.dictionaries(NAMES, one, max_size=1),
            "minProperties": COUNTS,
            "items": one,
            "prefixItems": some,
            "contains": one,
            "maxContains": COUNTS,
            "uniqueItems": st.booleans(),
            "maxItems": COUNTS,
            "allOf": some,
            "anyOf": some,
            "oneOf": some,
            "not": one,
            "if": one,
            "then": one,
            "else": one,
        },
    )


SCHEMAS = st.recursive(LEAVES, _deeper, max_leaves=5)
TREE = {"type": "object", "properties": {"a": {"$ref": "#/$defs/tree"}}}


@settings(max_examples=500, deadline=None)
@given(SCHEMAS, VALUES)
def test_the_verdict_is_that_of_the_reference(schema, value):
    whole = {"allOf": [schema], "$defs": {"tree": TREE}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = jsonschema.Draft202012Validator(whole).is_valid(value)
    assert (misfit(whole, value) is None) is expected


@pytest.mark.parametrize(
    ("schema", "value", "says"),
    [
        ({"type": "integer"}, "x" * 200, "$ is '" + "x" * 60 + "…' and has to be an integer"),
        ({"enum": ["a", 1]}, True, "$ is a boolean and has to be one of 'a', 1"),
        ({"format": "date-time"}, "tomorrow", "$ is 'tomorrow' and has to be a time such as 2026-01-31T09:30:00Z"),
        ({"format": "date"}, "2026-02-30", "$ is '2026-02-30': day is out of range for month"),
        ({"items": {"properties": {"a b": {"maximum": 1}}}}, [{"a b": 2}], '$[0]["a b"] is 2 and has to be at most 1'),
        ({"pattern": "^a+$"}, "b", "$ is 'b' and has to match '^a+$'"),
        (
            {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"a": {"type": "null"}}}]},
            {"a": 1},
            "$.a is 1 and has to be null (the nearest of 2 alternatives)",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(schema, value, says):
    assert misfit(schema, value) == says


def test_an_input_is_told_of_with_the_path_of_a_trigger():
    error = mismatch(read_schema({"items": {"type": "integer"}}), "sum", '[1, "x"]')
    assert error is not None
    assert (str(error), error.path) == (
        "the input does not fit Task sum: $[1] is 'x' and has to be an integer",
        "$.input[1]",
    )


def nested(levels):
    made = {"type": "null"}
    for _ in range(levels):
        made = {"items": made}
    return made


CHAIN = {f"c{n}": {"$ref": f"#/$defs/c{n + 1}"} for n in range(500)} | {"c500": {}}


@pytest.mark.parametrize(
    ("schema", "at", "says"),
    [
        ({"description": "x" * 10_000_000}, "$", "65536 is the most"),
        (nested(5_000), "$", "nested"),
        (nested(60), "$", "nested more than 48"),
        ({"anyOf": [True] * 6_000}, "$.anyOf", "more than 5000 schemas"),
        ({"$ref": "#"}, "$", "leads to itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#"}]}}}, "$", "leads to itself"),
        ({"$ref": "#/$defs/c0", "$defs": CHAIN}, None, "references apply to one value"),
        ({"$ref": "https://example.com/schema.json"}, '$["$ref"]', "nothing is fetched"),
        ({"$ref": "file:///etc/passwd"}, '$["$ref"]', "nothing is fetched"),
        ({"$ref": "#/$defs/none"}, '$["$ref"]', "names nothing"),
        ({"$dynamicRef": "#"}, '$["$dynamicRef"]', "not supported"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, '$["$schema"]', "only"),
        ({"pattern": "("}, "$.pattern", "unclosed group"),
        ({"pattern": "(?=a)b"}, "$.pattern", "look-around"),
        ({"pattern": r"(a)\1"}, "$.pattern", "backreferences"),
        ({"pattern": "(a{1,100}){1,100}b"}, "$.pattern", "multiply to 10001"),
        ({"pattern": "(?x)#[\n(a{1,100}){1,100}#]"}, "$.pattern", "flag x"),
        ({"pattern": "a" * 2_000}, "$.pattern", "1000 characters"),
        ({"anyOf": [{"pattern": "a{1000}"}] * 10}, "$.anyOf.pattern", "too many or too big"),
        ({"properties": {"a": {"type": "text"}}}, "$.properties.a.type", "is one of object"),
        ({"properties": {"a": "string"}}, "$.properties.a", "a schema is an object"),
        ({"minLength": -1}, "$.minLength", "0 or more"),
        ({"multipleOf": 0}, "$.multipleOf", "above 0"),
        ([], "$", "a schema is an object"),
    ],
)
def test_a_hostile_schema_is_refused_with_its_place_and_soon(schema, at, says):
    began = time.process_time()
    with pytest.raises(InvalidInputError, match=says) as told:
        read_schema(schema)
    assert time.process_time() - began < BOUND
    assert told.value.code == "invalid-schema"
    assert at is None or told.value.path == at


def deep(levels, leaf):
    made = leaf
    for _ in range(levels):
        made = {"l": made}
    return made


TWICE = {
    "$ref": "#/$defs/n",
    "$defs": {
        "n": {
            "anyOf": [
                {"type": "object", "properties": {"l": {"$ref": "#/$defs/n"}}, "required": ["x"]},
                {"type": "object", "properties": {"l": {"$ref": "#/$defs/n"}}, "required": ["y"]},
            ]
        }
    },
}
DOUBLING = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 3} for n in range(20)} | {"d20": {"type": "object"}}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (TWICE, deep(99, 1)),
        ({"$ref": "#/$defs/d0", "$defs": DOUBLING}, {}),
        ({"items": {"anyOf": [{"const": n} for n in range(4_000)]}}, list(range(4_000, 104_000))),
        ({"uniqueItems": True}, [[n] for n in range(100_000)]),
        ({"enum": [[["a"] * 1_000]] * 5}, [["a"] * 100_000]),
        ({"pattern": "(a|aa)+$"}, "a" * 1_000_000 + "b"),
        ({"pattern": "(a{1,50}){1,90}b"}, "a" * 1_000_000),
        ({"pattern": r"\w{100}b"}, "é" * 500_000),
        ({"patternProperties": {"(a{1,50}){1,90}b": True}}, {"a" * 1_000: 1, "b" * 100_000: 2}),
        ({"multipleOf": 1e-300}, 1e308),
    ],
)
def test_a_hostile_check_ends_soon(schema, value):
    read = read_schema(schema)
    size = len(json.dumps(value))
    began = time.process_time()
    read.misfit(value, size)
    assert time.process_time() - began < BOUND


def test_what_takes_too_much_is_refused_and_says_so():
    many = {"items": {"anyOf": [{"const": n} for n in range(4_000)]}}
    assert "too many steps" in str(misfit(many, [3_999] * 10_000))
    assert "too long for the patterns" in str(misfit({"pattern": "(a{1,50}){1,90}b"}, "a" * 100_000))


@pytest.mark.parametrize(
    ("pattern", "weighs"),
    [
        ("abc", 3),
        ("a{10}", 10),
        ("(a{10}b){5}", 55),
        ("a{2,}", 2),
        ("a{,7}", 7),
        ("a{ 3 , 7 }", 7),
        (r"\d{4}", 32),
        (r"[a{9}]", 1),
        (r"[\]a]{3}", 3),
        (r"\{9}", 3),
        (r"\p{L}{3}", 24),
        ("", 1),
    ],
)
def test_repetitions_multiply(pattern, weighs):
    assert weight(pattern) == weighs
