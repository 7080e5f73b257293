"""Fingerprints: what makes two calls the same, and what is left out."""

import logging
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost import Volatile
from milepost.sdk.changed import parse
from milepost.sdk.fingerprint import checksum, keyed, of_arguments, place


class Colour(Enum):
    RED = "red"


class Size(StrEnum):
    BIG = "big"


class Pair(NamedTuple):
    a: int
    b: int


@dataclass
class Item:
    n: int
    tags: set[str]


class Hostile:
    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)


class HostileDict(dict):
    def items(self):
        raise RuntimeError("no")


def plain(*_args: object, **_kwargs: object) -> None:
    """A step."""


def circular() -> list[object]:
    made: list[object] = []
    made.append(made)
    return made


def deep() -> list[object]:
    made: list[object] = []
    for _ in range(100_000):
        made = [made]
    return made


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ((1, 2), [1, 2]),
        (Pair(1, 2), [1, 2]),
        ({3, 1, 2}, {1, 2, 3}),
        (Item(1, {"x", "y"}), Item(1, {"y", "x"})),
        (Size.BIG, "big"),
        (float("nan"), float("nan")),
    ],
)
def test_what_is_the_same(one: object, other: object):
    assert checksum(one) == checksum(other) != "?"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", 1),
        (1, 2),
        ([1, 2], [2, 1]),
        ({"a": None}, {}),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)),
        (Decimal("1.0"), Decimal("1.1")),
        (UUID(int=1), UUID(int=2)),
        (b"a", b"b"),
        (Item(1, set()), Item(2, set())),
        ("\ud800", "\ud801"),
        ("x" * 1_000_000, "x" * 999_999 + "y"),
        (2**64, 2**64 + 1),
        ([Colour.RED], [None]),
    ],
)
def test_what_differs(one: object, other: object):
    assert checksum(one) != checksum(other)
    assert "?" not in {checksum(one), checksum(other)}


@pytest.mark.parametrize(
    "value",
    [
        object(), logging.getLogger("x"), Hostile(), HostileDict(a=1), circular(), deep(), plain, [1, {"c": object()}],
        (n for n in ()), Path("/tmp/x"), {object(): 1}, {1: 2, "b": 3}, 10**5000, Item(Hostile(), set()), type,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_can_t_be_told_is_left_out(value: object):
    assert of_arguments(plain, (1, value), {"other": value}) == f"{checksum(1)},?;other=?"


def test_a_volatile_parameter_is_left_out():
    def call(
        url: str, token: Annotated[str, Volatile], *, trace: "Annotated[str, Volatile]" = "", top: int = 1
    ) -> None:
        """A step."""

    class Api:
        def call(self, token: Annotated[str, Volatile], n: int) -> None:
            """A step."""

    assert of_arguments(call, ("u", "t1"), {"trace": "a", "top": 2}) == of_arguments(
        call, ("u", "t2"), {"top": 2, "trace": "b"}
    )
    assert of_arguments(call, ("u", "t1"), {}) != of_arguments(call, ("v", "t1"), {})
    bound, number = Api().call, checksum(3)
    assert of_arguments(bound, ("t1", 3), {}) == f"?,{number}"
    assert of_arguments(Api.call, (Api(), "t1", 3), {}) == f"?,?,{number}"


@pytest.mark.parametrize(
    "text", ["3(5c8f,?;top=9f)", "0()", "1@main.<locals>.worker(a)", "=charge(a,b)", "=caf%C3%A9(;x=?)"]
)
def test_it_is_read_as_it_was_written(text: str):
    assert parse(text) is not None
    assert place(text) == parse(text).position


@pytest.mark.parametrize("text", ["", "x", "9", "v2:3(a)", "3(a", "(", "-1(a)", "²(a)", "=(", "@x(a)"])
def test_a_kind_of_a_later_version_is_not_judged(text: str):
    assert place(text) == 0
    assert parse(text) is None


@given(st.text(max_size=80), st.dictionaries(st.text(max_size=80), st.integers()), st.lists(st.integers(), max_size=20))
def test_it_travels_in_a_header(name: str, kwargs: dict[str, int], args: list[int]):
    text = keyed(name, of_arguments(plain, tuple(args), kwargs))
    assert text.isascii()
    assert text.isprintable()
    assert parse(text).name == name[:60].encode(errors="replace").decode()
    assert len(text) < 20_000


def test_many_arguments_share_a_checksum():
    many, other = tuple(range(100)), (*range(99), 7)
    assert of_arguments(plain, many, {}) != of_arguments(plain, other, {})
    assert len(of_arguments(plain, many, {})) < 140
    assert len(of_arguments(plain, (), {f"k{n}": n for n in range(100)})) < 240


def test_it_is_the_same_in_every_process():
    code = (
        "from milepost.sdk.fingerprint import of_arguments, placed\n"
        "args = {'a', 'b', 'c', 'é'}, {'x': 1.5, 'y': (None, True)}, 'text', 1\n"
        "print(placed(2, 'worker', of_arguments(None, args, {'k': b'q'})))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    # the same for ever: another one would say of every run under way that its code changed
    assert seen == {"2@worker(9f2f0393,83a4960d,8337c0a2,83dcefb7;k=c5be1f5d)\n"}
