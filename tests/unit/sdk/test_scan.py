"""The rule for values that come in pieces is the rule for whole ones."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.wire.scan import Scanner
from milepost.wire.values import BadValue, check_text

GOOD = [
    "1", '"a"', "[]", "{}", " [1, 2.5e-3 ,\n-0] ", '{"a": [1, {"b": null}], "c": "é\\n\\"q"}', '"\\ud83d\\ude00"',
    "[" * 100 + "]" * 100, "9223372036854775807", "-9223372036854775808", '[[], [{}], "", {"x": {}}, [[[[1]]]]]',
    '{"k": {"l": {"m": {"n": [1, [2, [3, [4]]]]}}}}',
]  # fmt: skip
BAD = [
    "", "  ", "[1,]", '{"a":}', '{"a" 1}', "[1 2]", "tru", "nulll", '"a\nb"', '"\\x"', '"\\u12"', "1.", "01", "-", ".5",
    "+1", "[1]]", '{"a":1}}', "{1:2}", '"abc', '[1,"x', "\ufeff1", "[1,2", "{'a':1}", "[,]", "{,}", '{"a":1,}', "]",
    ",",
    '["a":1]', '{"a",1}', "1 1", "[NaN]", "-Infinity", "1e400", "9223372036854775808", "-9223372036854775809",
    '"\\u0000"', '{"a": {"\\u0000": 1}}', '["\\ud800"]', '"\\udc00x"', '"\\ud83d\\n"', "[" * 101 + "]" * 101,
    '[[[["\\u0000"]]]]', '{"a": [1, [2, [3, 1e999]]]}',
]  # fmt: skip


def scanned(data: bytes, size: int) -> BadValue | None:
    scanner = Scanner()
    for at in range(0, len(data), size):
        if found := scanner.feed(data[at : at + size]):
            return found
    return scanner.end()


@pytest.mark.parametrize("text", GOOD + BAD)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_pieces_are_judged_as_the_whole_is(text: str, size: int) -> None:
    whole, found = check_text(text), scanned(text.encode(), size)
    assert (whole and whole.code) == (found and found.code), found
    assert (whole is None) == (text in GOOD)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=30,
)


@given(
    value=VALUES, ascii_only=st.booleans(), size=st.integers(1, 40), cut=st.integers(0, 60), junk=st.text(max_size=2)
)
def test_any_text_is_judged_alike(value: object, ascii_only: bool, size: int, cut: int, junk: str) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    for one in (text, text[:cut] + text[cut + 1 :], text[:cut] + junk + text[cut:]):
        try:
            data = one.encode()
        except UnicodeEncodeError:
            continue
        whole, found = check_text(one), scanned(data, size)
        assert (whole is None) == (found is None), (one, whole, found)


def test_what_is_no_utf_8_is_told() -> None:
    for data in (b'"\xff"', b'"\xed\xa0\x80"', b'"\xc3'):
        found = scanned(data, 2)
        assert found is not None
        assert found.code == "not-json"


def test_where_it_is_wrong_is_told() -> None:
    found = scanned(b'{"a": [1, 2, ' + b"3, " * 30 + b"oops]}", 16)
    assert found is not None
    assert found.detail == "not JSON at character 103: 'oops' is no value"
