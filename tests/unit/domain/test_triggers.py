from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost_operator.domain.errors import ConflictError, InvalidInputError
from milepost_operator.domain.inputs import input_hash, value_hash
from milepost_operator.domain.options import Asked, check
from milepost_operator.domain.runs import Created, Debounce, NewRun, Singleton
from milepost_operator.domain.states import RunState
from milepost_operator.domain.triggers import Owner, folded, leaders, resolve, throttle

ID = UUID(int=7)


def new(**changes: object) -> NewRun:
    return NewRun(**({"namespace": "team", "task": "t", "input": "1"} | changes))  # type: ignore[arg-type]


def owner(text: str = "1", **changes: object) -> Owner:
    fields = {"run_id": ID, "name": "r", "state": RunState.QUEUED, "digest": input_hash(text)}
    return Owner(**(fields | changes))  # type: ignore[arg-type]


steps = st.lists(st.tuples(st.floats(0, 40), st.integers(1, 5)), min_size=1, max_size=60)


@given(steps, st.integers(1, 10), st.sampled_from([1.0, 7.5, 60.0]))
def test_no_window_passes_more_than_the_limit(calls: list[tuple[float, int]], limit: int, period: float) -> None:
    now, counts, passed = 1_000_000.0, {}, []
    for pause, number in calls:
        now += pause
        answer = throttle(counts, now, limit, period, number)
        counts = dict(answer.counts)
        passed += [now] * answer.passed
        if answer.passed < number:
            again = throttle(counts, now + answer.retry_after_seconds + 0.001, limit, period, 1)
            assert again.passed == 1
            assert answer.retry_after_seconds <= period * 61 / 60 + 0.001
    for begin in passed:
        assert sum(begin <= at < begin + period for at in passed) <= limit


def test_a_clock_that_goes_back_gives_nothing() -> None:
    first = throttle({}, 1_000_000.0, 3, 60.0, 3)
    assert throttle(first.counts, 999_900.0, 3, 60.0, 1).passed == 0


def test_the_first_of_each_identity_leads() -> None:
    runs = [new(idempotency_key="k"), new(), new(idempotency_key="k"), new(), new(singleton=Singleton("k"))]
    assert leaders(runs) == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("run", "claim", "having", "told"),
    [
        (new(idempotency_key="k"), "key", owner(), "duplicate"),
        (new(idempotency_key="k"), "key", owner("2"), "idempotency-mismatch"),
        (new(idempotency_key="k"), "key", owner(gone=True), "again"),
        (new(singleton=Singleton("s")), "singleton", owner("2"), "duplicate"),
        (new(singleton=Singleton("s", reject=True)), "singleton", owner(), "singleton-exists"),
        (new(name="r"), "name", owner(), "name-taken"),
        (new(), "name", owner(), "again"),
        (new(intent_uid="u", name="r"), "intent", owner("2"), "duplicate"),
    ],
)
def test_what_is_told_of_another_run(run, claim, having, told) -> None:
    answer = resolve(run, input_hash(run.input), {claim: having})
    if isinstance(answer, Created):
        assert (told, answer.run_id, answer.duplicate) == ("duplicate", ID, True)
    elif isinstance(answer, ConflictError):
        assert answer.code == told
    else:
        assert (answer, told) == (None, "again")


def test_calls_at_one_moment_fold_into_one() -> None:
    early, late = new(debounce=Debounce("d", 5, 50), input="1"), new(debounce=Debounce("d", 9, 50), input="2")
    assert folded([early, late]) == late
    first = new(debounce=Debounce("d", 9, 50, latest=False), input="2")
    assert (folded([early, first]).input, folded([early, first]).debounce) == ("1", first.debounce)


def test_options_that_go_together_pass() -> None:
    check(Asked(), "$.")
    check(Asked(key="k", scope="active"), "$.")
    check(Asked(debounce=(5, None), deadline=6), "$.")
    with pytest.raises(InvalidInputError) as error:
        check(Asked(debounce=(5, None), deadline=5), "spec.")
    assert error.value.path == "spec.deadlineSeconds"


@given(
    st.recursive(
        st.none() | st.integers(-(2**63), 2**63) | st.text(), lambda i: st.lists(i) | st.dictionaries(st.text(), i)
    )
)
def test_the_hash_is_of_the_value_whatever_its_text(value: object) -> None:
    import json  # noqa: PLC0415

    assert (
        value_hash(value)
        == input_hash(json.dumps(value, indent=2))
        == input_hash(json.dumps(value, ensure_ascii=False))
    )
