from datetime import UTC, datetime
from uuid import UUID

import pytest

from milepost_operator.api.cursors import Cursors, scope_of
from milepost_operator.api.filters import FilterBody, FilterQuery
from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.lifecycle import Position

WHERE = Position(datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), UUID(int=7))
OURS = Cursors(b"k" * 32)


def test_a_cursor_comes_back_as_it_was() -> None:
    text = OURS.sign(WHERE, "runs")
    assert text is not None
    assert text.isascii()
    assert OURS.read(text, "runs") == WHERE
    assert (OURS.sign(None, "runs"), OURS.read(None, "runs")) == (None, None)


def test_one_of_another_list_key_or_position_is_refused() -> None:
    text = OURS.sign(WHERE, "runs") or ""
    changed = ("B" if text[3] == "A" else "A").join((text[:3], text[4:]))
    for cursors, cursor, scope in (
        (OURS, text, "letters"),
        (Cursors(b"x" * 32), text, "runs"),
        (OURS, changed, "runs"),
        (OURS, text[:-4], "runs"),
        (OURS, "", "runs"),
        (OURS, "ä", "runs"),
    ):
        with pytest.raises(InvalidInputError) as refused:
            cursors.read(cursor, scope)
        assert (refused.value.code, refused.value.path) == ("invalid-cursor", "cursor")


def test_a_scope_is_all_that_was_asked_but_where_and_how_much() -> None:
    def scope(**asked: object) -> str:
        return scope_of("runs", "team", FilterQuery.model_validate(asked))

    assert scope(task="a", limit=5) == scope(task="a", cursor="x")
    assert len({scope(), scope(task="a"), scope(queue="a"), scope(state=["failed"]), scope(minSeconds=1)}) == 5


@pytest.mark.parametrize(
    ("low", "high"),
    [("createdAfter", "createdBefore"), ("finishedAfter", "finishedBefore"), ("minSeconds", "maxSeconds")],
)
def test_a_range_that_nothing_is_in_is_refused(low: str, high: str) -> None:
    first, last = (
        (2, 1) if low == "minSeconds" else (datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    )
    with pytest.raises(InvalidInputError) as refused:
        FilterBody.model_validate({low: first, high: last}).parsed()
    assert refused.value.path == low
