"""Deltas of JSON text: what they are put together to is what was written, and they are small where little changed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.sidecar.bases import MIN_CHARS, Bases
from milepost.wire.delta import MAX_DEPTH, dumped, edits, loaded, spliced
from milepost.wire.pod import RecordWrite

LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=9)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=5)
)
TURN = {"role": "assistant", "content": 'It is 21 °C in Bern, and it "rains".\n' * 4, "usage": {"in": 812, "out": 93}}


def text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def history(turns: int, **more: object) -> str:
    return text({"turn": turns, "messages": [TURN | {"id": n * 7919} for n in range(turns)], **more})


@given(old=VALUES, new=VALUES, ascii_only=st.booleans())
def test_edits_give_back_the_new_text_whatever_it_is(old: object, new: object, ascii_only: bool):
    before, after = (json.dumps(v, ensure_ascii=ascii_only) for v in (old, new))
    found = edits(before, after, len(after) + 1)
    assert found is not None
    assert spliced(before, loaded(dumped(found))) == after


@given(old=st.text("ab,{}", max_size=300), new=st.text("ab,{}", max_size=300))
def test_texts_that_repeat_themselves_are_told_apart(old: str, new: str):
    found = edits(old, new, len(new) + 1)
    assert found is not None
    assert spliced(old, found) == new


@pytest.mark.parametrize(
    ("old", "new", "most"),
    [
        pytest.param(text([TURN] * 50), text([TURN] * 50 + [{"n": 1}]), 12, id="a list gets an item"),
        pytest.param(text("x" * 9000), text("x" * 9000 + "y\n"), 12, id="a string grows"),
        pytest.param(history(50), history(50, cost=0.25), 16, id="an object gets a member"),
        pytest.param(history(50), history(51), len(text(TURN)) + 64, id="a list in an object, after a counter"),
        pytest.param(history(50, sum=1.0), history(50, sum=2.5), 12, id="a member is replaced"),
        pytest.param(
            text([TURN | {"id": n} for n in range(50)]), text([TURN | {"id": n} for n in range(3, 51)]),
            len(text(TURN)) + 64, id="a window moves on",
        ),
        pytest.param(history(50), text({**json.loads(history(50)), "turn": None}), 12, id="the first member changes"),
        pytest.param(history(50), history(50), 1, id="nothing changed"),
    ],
)  # fmt: skip
def test_little_is_kept_of_what_changed_little(old: str, new: str, most: int):
    found = edits(old, new, len(new))
    assert found is not None
    assert spliced(old, found) == new
    assert sum(len(part) for _, _, part in found) <= most, found


def test_unlike_values_are_given_up_early():
    assert edits(text([1] * 5000), text(["a"] * 5000), 1000) is None


@pytest.mark.parametrize(
    "bad", ["1", "{}", "[1]", '[["1",0,"a"]]', '[[1,-1,"a"]]', '[[3,2,"a"],[4,0,"b"]]', '[[true,0,""]]', "[[1,2]]", "]"]
)
def test_what_is_no_delta_is_refused(bad: str):
    with pytest.raises(ValueError):  # noqa: PT011  json's own, and ours
        loaded(bad)


class Kept:
    """A sidecar's memory, and the rows of an api that puts values together."""

    def __init__(self, **settings: int) -> None:
        self.bases = Bases(**settings)
        self.rows: dict[int, tuple[str, int]] = {}
        self.deltas = 0

    def write(self, value: str, key: str = "k", kind: str = "checkpoint") -> int:
        """How many characters went."""
        write = RecordWrite(str(len(self.rows)), kind, key, value)  # type: ignore[arg-type]
        sent = self.bases.shortened(write)
        seq, depth, whole = len(self.rows) + 1, 0, sent.value
        if sent.delta is not None and sent.base is not None:
            before, deep = self.rows[sent.base]
            whole, depth = spliced(before, loaded(sent.delta)), deep + 1
            self.deltas += 1
            assert sent.size == len(whole.encode())
        assert (whole, depth <= MAX_DEPTH) == (value, True)
        self.rows[seq] = whole, depth
        self.bases.committed(write, sent, seq, 0)
        return len(sent.delta if sent.delta is not None else sent.value)


def test_a_history_goes_in_full_now_and_then():
    kept = Kept()
    sizes = [kept.write(history(n)) for n in range(1, 301)]
    assert 300 - 5 <= kept.deltas < 300
    assert sum(sizes) < 5 * len(history(300))
    assert max(depth for _, depth in kept.rows.values()) == MAX_DEPTH


def test_a_large_value_goes_in_full_more_often():
    kept = Kept()
    for n in range(12):
        kept.write(text(["x" * 400_000, "ü", n]))
    assert max(depth for _, depth in kept.rows.values()) < 12


def test_calls_of_one_step_are_made_of_each_other_and_small_values_are_not():
    kept = Kept()
    for n in range(1, 10):
        kept.write(history(9 + n), "turn" if n == 1 else f"turn#{n}", "step")
        kept.write("x" * (MIN_CHARS - 1), f"small#{n}", "step")
        kept.write(history(9 + n), f"other/{n}", "step")
    assert kept.deltas == 8


def test_memory_is_bounded_and_the_oldest_go():
    kept = Kept(most=20_000)
    for n in range(40):
        kept.write(history(10), f"k{n}")
        assert kept.bases._size <= 20_000
    before = kept.deltas
    kept.write(history(11), "k39")
    kept.write(history(11), "k0")
    assert kept.deltas == before + 1


def test_nothing_is_made_of_what_was_written_before_under_the_same_id():
    bases = Bases()
    write = RecordWrite("w", "checkpoint", "k", history(5))
    bases.committed(write, write, 7, 9)  # the run had 9 records before: this is told again, and may be another value
    assert bases.shortened(RecordWrite("x", "checkpoint", "k", history(6))).delta is None
    bases.committed(write, write, 10, 9)
    assert bases.shortened(RecordWrite("x", "checkpoint", "k", history(6))).base == 10
    bases.committed(write, write, 10, 9)
    assert bases.shortened(RecordWrite("x", "checkpoint", "k", history(6))).delta is None
