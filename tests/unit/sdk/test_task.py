"""How a run's input becomes the arguments of a task."""

import pytest

from milepost import task
from milepost.errors import FatalError


def folder(folder: str) -> object:
    return folder


def maybe(ids: list[dict[str, int]] | None) -> object:
    return ids


def text(name: "str") -> object:
    return name


def anything(data) -> object:
    return data


def mapping(data: dict[str, int]) -> object:
    return data


def mixed(data: str | dict[str, int]) -> object:
    return data


def only_by_name(*, folder) -> object:
    return folder


def all_by_name(**members) -> object:
    return members


@pytest.mark.parametrize(
    ("fn", "given", "got"),
    [
        (folder, {"folder": "handbook"}, "handbook"),
        (folder, "handbook", "handbook"),
        (anything, None, None),
        (maybe, {"ids": [{"a": 1}]}, [{"a": 1}]),
        (maybe, [{"a": 1}], [{"a": 1}]),
        (text, {"name": "x"}, "x"),
        (anything, {"data": 1}, {"data": 1}),
        (mapping, {"data": 1}, {"data": 1}),
        (mixed, {"data": 1}, {"data": 1}),
        (only_by_name, {"folder": "x"}, "x"),
        (all_by_name, {"a": 1, "b": 2}, {"a": 1, "b": 2}),
        (all_by_name, None, {}),
    ],
)
def test_an_object_is_taken_apart_where_it_can_not_be_an_argument(fn, given, got):
    assert task(fn).bind(None, given)() == got


def test_a_misspelt_member_is_named():
    with pytest.raises(FatalError, match=r"does not fit folder\(.*'fold(e)?r'"):
        task(folder).bind(None, {"foldr": "handbook"})
