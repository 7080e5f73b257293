"""Values with types of their own: what goes in comes out, by its tags or by its annotation, or is refused."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntFlag
from typing import Any, Literal, NamedTuple, NotRequired, Optional, TypedDict, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from milepost import NotRecordableError
from milepost.errors import ValueMismatchError
from milepost.sdk.signature import returned
from milepost.values import Encoded, pack, unpack
from milepost.wire.values import check_text

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
ZONES = st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]).map(ZoneInfo)
OFFSETS = st.integers(-82800, 82800).map(lambda offset: timezone(timedelta(seconds=offset)))


class Colour(Enum):
    RED = "red"
    BLUE = ("b", 1)


class Right(IntFlag):
    READ = 1
    WRITE = 2


@dataclass(frozen=True, slots=True)
class Inner:
    when: datetime
    parts: tuple[Decimal, ...] = ()


@dataclass
class Order:
    id: UUID
    lines: list[Inner] = field(default_factory=list)
    colour: Colour = Colour.RED
    note: str | None = None
    total: int = field(init=False, default=0)


class Address(BaseModel):
    street: str
    since: date
    tags: tuple[str, ...] = ()


SCALARS = (
    st.datetimes()
    | st.datetimes(timezones=ZONES | OFFSETS, allow_imaginary=True)
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.binary(max_size=20)
    | st.sampled_from([*Colour, *Right, Right.READ | Right.WRITE])
)
INNER = st.builds(Inner, st.datetimes(), st.lists(st.decimals(allow_nan=False, allow_infinity=False)).map(tuple))
ORDERS = st.builds(Order, st.uuids(), st.lists(INNER, max_size=3), st.sampled_from(Colour), st.none() | TEXT)
MODELS = st.builds(Address, street=TEXT, since=st.dates(), tags=st.lists(TEXT, max_size=3).map(tuple))
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT | SCALARS | INNER | ORDERS | MODELS
HASHABLE = st.none() | st.integers(-9, 9) | TEXT | SCALARS
VALUES = st.recursive(
    LEAVES | st.sets(HASHABLE, max_size=4) | st.frozensets(HASHABLE, max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(TEXT, inner, max_size=4)
    ),
    max_leaves=12,
)


def same(one: object, other: object) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other) or one != other:
        return False
    if isinstance(one, (list, tuple)):
        return all(same(a, b) for a, b in zip(one, other, strict=True))  # type: ignore[arg-type]
    if isinstance(one, dict):
        return all(same(one[key], other[key]) for key in one)  # type: ignore[index]
    if isinstance(one, (datetime, time)):
        return (one.fold, str(one.tzinfo)) == (other.fold, str(other.tzinfo))  # type: ignore[attr-defined]
    return True


@given(VALUES)
def test_what_goes_in_comes_out(value: object) -> None:
    packed = pack(value)
    assert same(unpack(packed), value)
    assert check_text(packed.text) is None


@given(VALUES)
def test_the_same_value_is_the_same_text(value: object) -> None:
    assert pack(unpack(pack(value))) == pack(value)


@given(ORDERS)
def test_an_annotation_reads_it_without_tags_too(order: Order) -> None:
    packed = pack(order)
    assert unpack(packed, Order) == order
    assert unpack(Encoded(packed.text), Order) == order


def test_lists_of_one_type_have_one_tag() -> None:
    packed = pack(
        [{"when": datetime(2026, 1, n, tzinfo=UTC), "x": None} for n in range(1, 29)] + [{"when": None, "x": None}]
    )
    assert packed.types == '{"*":{"i":{"when":"datetime"}}}'
    assert unpack(packed)[0] == {"when": datetime(2026, 1, 1, tzinfo=UTC), "x": None}


def test_many_different_types_are_refused() -> None:
    mixed = [n if n % 2 else date(2026, 1, 1) for n in range(4000)]
    with pytest.raises(NotRecordableError, match="too many different types"):
        pack(mixed)


class Shape(TypedDict):
    name: str
    at: NotRequired[datetime]


T = TypeVar("T")
BERLIN = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (None, None),
        (1, int),
        (1, float),
        ([1, "a"], list[int | str]),
        ((1, "a"), tuple[int, str]),
        ((1, 2, 3), tuple[int, ...]),
        ({"a": (1,)}, dict[str, tuple[int, ...]]),
        ({1, 2}, set[int]),
        ({"name": "x", "at": BERLIN}, Shape),
        ("red", Literal["red", "blue"]),
        (Colour.BLUE, Colour),
        (Right.READ | Right.WRITE, Right),
        (None, Optional[Inner]),  # noqa: UP045
        ([UUID(int=1), None], Sequence[UUID | None]),
        ({"a": Decimal("1.10")}, Mapping[str, Decimal]),
        (Address(street="x", since=date(2026, 1, 1)), Address),
        (Address(street="x", since=date(2026, 1, 1)), Address | Inner),
        (Inner(BERLIN), Address | Inner),
        ([b"\x00", "AA=="], list[str | bytes]),
        (datetime(2026, 1, 1, tzinfo=UTC), date | datetime),
        ([1, {"x": date(2026, 1, 1)}], Any),
        ([1, {"x": date(2026, 1, 1)}], T),
    ],
)
def test_a_value_fits_its_annotation(value: object, annotation: object) -> None:
    assert same(unpack(pack(value), annotation), value)


@pytest.mark.parametrize(
    ("value", "annotation", "says"),
    [
        ("x", int, r"\$: the record holds str 'x' where the annotation says int"),
        (True, int, "where the annotation says int"),
        (
            {"lines": [{"n": 1.5}]},
            dict[str, list[dict[str, int]]],
            r"\$\.lines\[0\]\.n: .*where the annotation says int",
        ),
        ([1], tuple[int, int], "a tuple of 2"),
        ({"at": datetime(2026, 1, 1, tzinfo=UTC)}, Shape, r"Shape needs 'name'"),
        ("green", Literal["red"], "none of"),
        ("green", Colour, "no member with the recorded value 'green'"),
        ("tomorrow", date, "can't be read as date"),
        ({"street": "x"}, Address, "(?s)does not fit Address.*since"),
        ({"when": "2026-01-01T00:00:00", "gone": 1}, Inner, "no field 'gone' any more"),
        ({"parts": []}, Inner, r"field Inner.when is new and has no default"),
        ([1], int | str, "fits none of int | str"),
        (datetime(2026, 1, 1, tzinfo=UTC), date, "where the annotation says date"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(value: object, annotation: object, says: str) -> None:
    with pytest.raises(ValueMismatchError, match=says):
        unpack(pack(value), annotation)


def test_a_class_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(Inner(BERLIN))
    monkeypatch.delattr(sys.modules[__name__], "Inner")
    with pytest.raises(
        ValueMismatchError, match=r"holds a Inner of .*test_typed_values, which is not there: import it"
    ):
        unpack(packed)


def test_a_renamed_class_is_read_by_its_annotation(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack([Inner(BERLIN)])
    renamed = Inner
    monkeypatch.delattr(sys.modules[__name__], "Inner")
    assert unpack(packed, list[renamed]) == [renamed(BERLIN)]  # type: ignore[valid-type]


def test_a_record_names_no_module_to_import() -> None:
    with pytest.raises(ValueMismatchError, match="not there"):
        unpack(Encoded("{}", '{"t":"data antigravity:Order"}'))
    assert "antigravity" not in sys.modules


def test_a_record_makes_no_instance_of_anything_else() -> None:
    with pytest.raises(ValueMismatchError, match="is none now"):
        unpack(Encoded("{}", '{"t":"data subprocess:Popen"}'))
    with pytest.raises(ValueMismatchError, match="no enumeration"):
        unpack(Encoded('"x"', '{"t":"enum subprocess:Popen"}'))
    with pytest.raises(ValueMismatchError, match="no pydantic model"):
        unpack(Encoded('"x"', '{"t":"model subprocess:Popen"}'))


def test_a_named_tuple_is_refused() -> None:
    class Pair(NamedTuple):
        a: int

    with pytest.raises(NotRecordableError, match="Pair"):
        pack([Pair(1)])


async def fetch() -> "list[Inner]": ...


def plain(): ...  # type: ignore[no-untyped-def]


def unresolved() -> "Nowhere": ...  # type: ignore[name-defined]  # noqa: F821


def test_what_a_function_returns() -> None:
    assert returned(fetch) == list[Inner]
    assert returned(plain) is Any
    assert returned(unresolved) is Any
    assert returned(lambda: 1) is Any


def test_utc_stays_utc() -> None:
    assert unpack(pack(datetime(2026, 1, 1, tzinfo=UTC))).tzinfo is UTC
