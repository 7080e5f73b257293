"""The arithmetic of rate limits, against the definition: every window, every bucket."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost_operator.domain.runs import Rate
from tests.rates import RateState, at, counted, free, next_token_at, take

START = datetime(2026, 3, 1, 12, tzinfo=UTC)

windows = st.builds(Rate, st.integers(1, 20), st.integers(1, 120))
buckets = st.builds(Rate, st.integers(1, 20), st.integers(1, 120), st.just("bucket"), st.none() | st.integers(1, 30))
steps = st.lists(st.tuples(st.floats(-5, 90), st.integers(1, 25)), max_size=60)


def admissions(rate: Rate, moves: list[tuple[float, int]]) -> list[tuple[datetime, int]]:
    """Each move passes some time (or sets the clock back) and asks for a cost."""
    state: RateState | None = None
    now, done = START, []
    for passed, cost in moves:
        now += timedelta(seconds=passed)
        state = at(rate, state, now)
        need = counted(rate, cost)
        if need <= free(rate, state):
            state = take(state, need)
            done.append((state.at, need))
    return done


@given(windows, steps)
def test_no_window_of_the_period_has_more_than_the_limit(rate, moves):
    done = admissions(rate, moves)
    for end, _ in done:
        window = [cost for when, cost in done if timedelta() <= end - when < timedelta(seconds=rate.period_seconds)]
        assert sum(window) <= rate.limit


@given(buckets, steps)
def test_a_bucket_admits_at_most_its_burst_and_the_rate(rate, moves):
    done = admissions(rate, moves)
    for i, (begin, _) in enumerate(done):
        for j in range(i, len(done)):
            length = (done[j][0] - begin).total_seconds()
            most = (rate.burst or rate.limit) + length * rate.limit / rate.period_seconds
            assert sum(cost for _, cost in done[i : j + 1]) <= most + 1e-6


@given(windows | buckets, steps, st.integers(1, 25))
def test_at_the_next_token_the_cost_is_free_and_not_long_before(rate, moves, cost):
    state: RateState | None = None
    now = START
    for passed, asked in moves:
        now += timedelta(seconds=passed)
        state = at(rate, state, now)
        if counted(rate, asked) <= free(rate, state):
            state = take(state, counted(rate, asked))
    when = next_token_at(rate, state, now, cost)
    need = counted(rate, cost)
    assert free(rate, at(rate, state, when + timedelta(microseconds=10))) >= need
    if state is not None and when > max(now, state.at) + timedelta(milliseconds=1):
        assert free(rate, at(rate, state, when - timedelta(milliseconds=1))) < need


@given(st.integers(1, 20), st.integers(1, 100), st.integers(1, 100), st.lists(st.floats(0, 50), max_size=30))
def test_a_changed_period_forgets_nothing_that_its_window_holds(limit, before, after, passes):
    rate, state, now, done = Rate(limit, before), None, START, []
    for passed in passes:
        now += timedelta(seconds=passed)
        state = at(rate, state, now)
        if free(rate, state):
            state = take(state, 1)
            done.append(now)
    changed = at(Rate(limit, after), state, now)
    held = min(before, after)
    assert sum(changed.counts) >= sum(now - when < timedelta(seconds=held) for when in done)


@pytest.mark.parametrize("algorithm", ["window", "bucket"])
def test_a_clock_set_back_gives_nothing(algorithm):
    rate = Rate(3, 60, algorithm)
    state = take(at(rate, None, START), 3)
    assert free(rate, at(rate, state, START - timedelta(hours=1))) == 0
    assert at(rate, state, START - timedelta(hours=1)).at == START


def test_a_cost_above_the_limit_waits_for_the_whole_of_it():
    rate = Rate(3, 60)
    state = take(at(rate, None, START), 1)
    assert counted(rate, 10) == 3
    assert next_token_at(rate, state, START, 10) == START + timedelta(seconds=61)


def test_the_first_token_is_free_at_once():
    assert next_token_at(Rate(1, 60), None, START) == START
