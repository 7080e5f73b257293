"""What can be recorded, and where it says that it can't."""

import pytest

from milepost.wire.values import BadValue, biggest_path, check_text
from milepost_operator.domain.ids import lower32, run_name, uuid7
from milepost_operator.domain.inputs import input_hash


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, null, true, "é😀"]}', "9223372036854775807", '"\\ud83d\\ude00"', "0"])
def test_good_values(text: str) -> None:
    assert check_text(text) is None


@pytest.mark.parametrize(
    ("text", "code", "path"),
    [
        ("", "not-json", "$"),
        ("{'a': 1}", "not-json", "$"),
        ('{"a": NaN}', "not-finite", "$"),
        ("[1, -Infinity]", "not-finite", "$"),
        ('{"a": [0, 1e999]}', "not-finite", "$.a[1]"),
        ('{"a": {"b": 1180591620717411303424}}', "int-too-large", "$.a.b"),
        ('["\\u0000"]', "nul-character", "$[0]"),
        ('{"x y": "\\ud800"}', "lone-surrogate", '$["x y"]'),
        ('{"\\ud800": 1}', "lone-surrogate", '$["\\ud800"]'),
        ("[" * 101 + "1" + "]" * 101, "too-deep", "$" + "[0]" * 100),
        ("[" * 100_000, "too-deep", "$"),
    ],
)
def test_bad_values_are_named_by_place(text: str, code: str, path: str) -> None:
    found = check_text(text)
    assert isinstance(found, BadValue)
    assert (found.code, found.path) == (code, path)


def test_the_biggest_part_is_named() -> None:
    assert biggest_path('{"small": 1, "big": {"rows": ["' + "x" * 500 + '"]}}', 100) == "$.big.rows[0]"


def test_equal_inputs_hash_equal() -> None:
    assert input_hash('{"a": 1, "b": [2]}') == input_hash('{"b":[2],"a":1}')
    assert input_hash("1") != input_hash("2")


def test_names_and_ids() -> None:
    assert lower32(b"\x00" * 5) == "aaaaaaaa"
    assert run_name("t" * 80, b"\x00" * 5) == "t" * 54 + "-aaaaaaaa"
    first, second = uuid7(1, b"\xff" * 10), uuid7(2, b"\x00" * 10)
    assert first < second
    assert (first.version, first.variant) == (7, "specified in RFC 4122")
