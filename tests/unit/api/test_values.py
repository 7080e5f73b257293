import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.wire.values import check_text
from milepost_operator.api.values import is_plainly_fine, repeated_key, require_value
from milepost_operator.domain.errors import InvalidInputError, TooLargeError

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None))
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(values, st.booleans())
def test_the_quick_proof_never_passes_what_the_rule_refuses(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    if check_text(text) is not None:
        assert not is_plainly_fine(text)


@pytest.mark.parametrize("depth", [99, 100, 101, 102, 1500])
@pytest.mark.parametrize("inner", ["", "1", "{}"])
@pytest.mark.parametrize("wide", ["", "[]," * 200])
def test_depth_is_judged_as_by_the_rule(depth: int, inner: str, wide: str) -> None:
    text = f"[{wide}{'[' * (depth - 1)}{inner}{']' * (depth - 1)}]"
    if check_text(text) is not None:
        assert not is_plainly_fine(text)
    elif depth < 100:
        assert is_plainly_fine(text)


@pytest.mark.parametrize(
    "text", ['{"a": [1, 2.5, null, "x"]}', '"\\u00e4"', "123456789012345678", "[]", "[" * 50 + "]" * 50]
)
def test_ordinary_values_are_quick(text: str) -> None:
    assert is_plainly_fine(text)


async def test_large_values_are_judged_alike() -> None:
    items = ",".join(f'{{"id": {i}}}' for i in range(20_000))
    await require_value(f"[{items}]", 10**6, "x", "the value")
    with pytest.raises(InvalidInputError) as bad:
        await require_value(f'[{items}, "\\u0000"]', 10**6, "x", "the value")
    assert (bad.value.code, bad.value.path) == ("nul-character", "$[20000]")
    with pytest.raises(TooLargeError) as large:
        await require_value(f'{{"items": [{items}]}}', 1000, "record-too-large", "the value")
    assert large.value.path == "$.items"


async def test_sizes_are_those_of_utf8() -> None:
    await require_value('"' + "x" * 98 + '"', 100, "x", "v")
    await require_value('"' + "ä" * 49 + '"', 100, "x", "v")
    with pytest.raises(TooLargeError):
        await require_value('"' + "ä" * 50 + '"', 100, "x", "v")


@given(values)
def test_text_without_a_repeated_key_has_none(value: object) -> None:
    text = json.dumps(value)
    assert repeated_key(text, json.loads(text)) is None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"a": 1, "a": 2}', "$.a"),
        ('{"a": 1 , "b" :2, "a"\n: {"a": 3}}', "$.a"),
        ('[{"x": {"a b": 1, "c": "\\": ", "a b": 1}}]', '$[0].x["a b"]'),
        ('{"a": {"k": 1, "k": 2}, "a": 1}', "$.a"),
        ('{"\\u0061": 1, "a": 2}', "$.a"),
    ],
)
def test_a_repeated_key_is_found_with_its_place(text: str, path: str) -> None:
    found = repeated_key(text, json.loads(text))
    assert found is not None
    assert (found.code, found.path) == ("duplicate-key", path)
