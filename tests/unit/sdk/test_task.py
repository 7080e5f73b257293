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


def number() -> int:
    return 1


def test_a_result_is_held_to_its_annotation():
    binding = task(number).binding
    assert binding.result(1, 100) == "1"
    with pytest.raises(FatalError, match=r"the result does not fit what number\(\) -> int says: \$: the result holds"):
        binding.result("x", 100)
    assert task(anything).binding.result({"a": 1}, 100) == '{"a":1}'


def test_names_that_only_type_checkers_import_hide_no_other_annotation():
    def job(ctx, at, place): ...

    job.__annotations__ = {"ctx": "OnlyForTypeCheckers", "at": "int", "place": "Unknown"}
    assert task(job).binding.hints == {"at": int}
    with pytest.raises(FatalError, match=r"\$\.at: the input holds"):
        task(job).bind(None, {"at": "x", "place": 1})
