"""What can be recorded, and what refuses the rest."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from enum import IntEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost import NotRecordableError, RecordTooLargeError
from milepost.values import Encoded, pack, pack_within, unpack
from milepost.wire.values import check_text

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
JSONS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(JSONS)
def test_json_comes_back_equal_and_passes_the_common_rule(value: object):
    packed = pack(value)
    assert unpack(packed) == value
    assert packed.types is None
    assert check_text(packed.text) is None


class Colour(IntEnum):
    RED = 1


@dataclass
class Point:
    x: int


def _local() -> type:
    @dataclass
    class Local:
        pass

    return Local


class Zone(tzinfo):
    def utcoffset(self, _: datetime | None) -> timedelta:
        return timedelta()


Local = _local()
again: list[object] = []
tupled = ({"again": again},)
again.append(tupled)
loop: list[object] = []
loop.append({"again": loop})
deep: list[object] = []
for _ in range(101):
    deep = [deep]


@pytest.mark.parametrize(
    ("value", "path", "kind", "code"),
    [
        ({"a": [1, object()]}, "$.a[1]", "object", "not-json-type"),
        ({"a b": lambda: 1}, '$["a b"]', "function", "not-json-type"),
        ([(1, object())], "$[0][1]", "object", "not-json-type"),
        ([Point(object())], "$[0].x", "object", "not-json-type"),  # type: ignore[arg-type]
        ({"a": [bytearray()]}, "$.a[0]", "bytearray", "not-json-type"),
        ((Decimal("NaN"),), "$[0]", "Decimal", "not-finite"),
        (({1: 2},), "$[0][1]", "int", "bad-key"),
        ((math.inf,), "$[0]", "float", "not-finite"),
        ((Local(),), "$[0]", "Local", "not-importable"),
        ([datetime(2026, 1, 1, tzinfo=Zone())], "$[0]", f"{__name__}.Zone", "not-json-type"),
        ((tupled,), "$[0][0].again[0]", "tuple", "circular"),
        ({"a": {1: 2}}, "$.a[1]", "int", "bad-key"),
        ([math.nan], "$[0]", "float", "not-finite"),
        ([-math.inf], "$[0]", "float", "not-finite"),
        ([2**63], "$[0]", "int", "int-too-large"),
        ({"k": "\x00"}, "$.k", "str", "nul-character"),
        (["\ud800"], "$[0]", "str", "lone-surrogate"),
        (loop, "$[0].again", "list", "circular"),
        (deep, "$" + "[0]" * 100, "list", "too-deep"),
    ],
)
def test_everything_else_is_refused_with_its_place(value: object, path: str, kind: str, code: str):
    with pytest.raises(NotRecordableError) as caught:
        pack(value)
    assert (caught.value.path, caught.value.type.rpartition(".")[2], caught.value.code) == (
        path, kind.rpartition(".")[2], code,
    )  # fmt: skip


def test_the_same_list_twice_is_no_circle():
    shared = [1]
    assert pack([shared, shared]).text == "[[1],[1]]"
    assert unpack(pack((shared, shared))) == (shared, shared)


def test_the_limit_is_in_bytes_and_names_the_biggest_part():
    assert pack_within("é" * 4, 10, "x") == Encoded('"éééé"')
    with pytest.raises(RecordTooLargeError, match=r"the result has 30 bytes and 20 is the most.*\$\.b") as caught:
        pack_within({"a": 1, "b": "é" * 8}, 20, "the result")
    assert (caught.value.size, caught.value.limit, caught.value.path) == (30, 20, "$.b")
