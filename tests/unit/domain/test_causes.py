"""Every end of an attempt has a sentence and an advice of its own."""

import pytest

from milepost_operator.domain.causes import CAUSES, explained
from milepost_operator.domain.states import CANNOT_START, OUT_OF_MEMORY, Reason

WAITING = {
    Reason.TASK_NOT_FOUND,
    Reason.QUEUE_NOT_FOUND,
    Reason.CANCEL_REQUESTED,
    Reason.INVALID_INPUT,
}


def test_every_reason_of_an_end_is_explained() -> None:
    assert set(CAUSES) == set(Reason) - WAITING


def test_no_two_causes_say_the_same() -> None:
    sentences = [cause.sentence for cause in CAUSES.values()]
    assert len(set(sentences)) == len(sentences)


@pytest.mark.parametrize("reason", sorted(CANNOT_START | OUT_OF_MEMORY | {Reason.STORAGE, Reason.TIMEOUT}))
def test_what_a_person_has_to_mend_says_how(reason: Reason) -> None:
    assert CAUSES[reason].advice


@pytest.mark.parametrize("word", [None, "", "Nothing", "oom"])
def test_other_words_mean_nothing(word: str | None) -> None:
    assert explained(word) is None


def test_rows_speak_in_words() -> None:
    assert explained("OOMKilled") is CAUSES[Reason.OOM]
