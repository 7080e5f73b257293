"""Steps that are tried again: how often, how soon, in this attempt or the next, and what is remembered of it."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.errors import FatalError, FencedError, NotRecordableError, StepKeyError
from milepost.sdk.context import Context
from milepost.sdk.retried import TRIES, Retried, retried, tries_key
from milepost.sdk.retry import Retry, Tries, judge
from milepost.sdk.step import step
from milepost.sdk.sync import SyncContext
from tests.unit.sdk.attempts import DiedError, LeftError, Run

SHORT = Retry(max_attempts=3, min_seconds=1, randomize=False)
LONG = Retry(max_attempts=3, min_seconds=60, max_seconds=600, randomize=False)


class Flaky:
    """Fails so many times, then gives its number of calls."""

    def __init__(self, failures: int, error: Callable[[], Exception] = lambda: TimeoutError("slow")) -> None:
        self.failures = failures
        self.error = error
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error()
        return self.calls


def attempt(run: Run, form: str, fn: Callable[[], object], retry: Retry) -> object:
    """One attempt of a task with the one step."""

    async def task(ctx: Context) -> object:
        async def called() -> object:
            return fn()

        return await ctx.step("fetch", called, retry=retry)

    if form == "async":
        return run.do(task)
    return run.do_plain(lambda ctx: ctx.step("fetch", fn, retry=retry))


FORMS = pytest.mark.parametrize("form", ["async", "plain"])


@FORMS
def test_short_waits_stay_in_the_attempt(form: str):
    run, fetch = Run(), Flaky(2)
    began = run.now
    assert attempt(run, form, fetch, SHORT) == 3
    assert run.now - began == pytest.approx(3.0), "1 s, then 2 s"
    assert not run.waits
    assert run.keys == ["~retry/fetch", "~retry/fetch", "fetch"]
    assert [(t["failed"], t["of"], t["error"], t["seconds"]) for t in run.tries] == [
        (1, 3, "TimeoutError: slow", 1.0),
        (2, 3, "TimeoutError: slow", 2.0),
    ]
    assert attempt(run, form, fetch, SHORT) == 3
    assert fetch.calls == 3, "recorded"


@FORMS
def test_long_waits_end_the_attempt_and_the_count_goes_on(form: str):
    run, fetch = Run(), Flaky(2)
    with pytest.raises(LeftError):
        attempt(run, form, fetch, LONG)
    ((wait,),) = run.waits
    assert (wait.key, wait.kind, wait.seconds) == ("~retry/fetch", "retry", 60.0)
    assert wait.name == "step `fetch` failed in 1 of 3 tries: TimeoutError: slow"
    run.now += 60
    with pytest.raises(LeftError):
        attempt(run, form, fetch, LONG)
    assert run.waits[1][0].seconds == 120.0
    run.now += 120
    assert attempt(run, form, fetch, LONG) == 3


@FORMS
def test_a_crash_in_a_wait_goes_on_with_what_is_left_of_it(form: str):
    run, fetch = Run(), Flaky(1)
    with pytest.raises(LeftError):
        attempt(run, form, fetch, LONG)
    run.now += 20  # the pod died before the attempt was settled: the next one begins too early
    with pytest.raises(LeftError):
        attempt(run, form, fetch, LONG)
    assert fetch.calls == 1
    assert run.waits[1][0].seconds == pytest.approx(40.0)
    run.now += 37
    assert attempt(run, form, fetch, LONG) == 2, "3 s more are short enough to stay"
    assert run.now == pytest.approx(1_000_060.0)


@FORMS
def test_a_crash_in_the_middle_does_not_begin_the_count_anew(form: str):
    class CrashError(BaseException):
        pass

    def fetch() -> None:
        calls.append(run.attempt)
        if run.attempt == 1 and len(calls) == 2:
            raise CrashError
        raise TimeoutError("slow")

    run, calls = Run(), []
    with pytest.raises(CrashError):
        attempt(run, form, fetch, SHORT)
    with pytest.raises(TimeoutError) as caught:
        attempt(run, form, fetch, SHORT)
    assert calls == [1, 1, 2, 2], "one failure is recorded: two tries are left"
    assert caught.value.__notes__ == ["step 'fetch': this was try 3 of 3"]


@FORMS
def test_given_up_begins_afresh_in_the_next_attempt(form: str):
    run, fetch = Run(), Flaky(4)
    with pytest.raises(TimeoutError):
        attempt(run, form, fetch, SHORT)
    assert (run.tries[-1]["failed"], run.tries[-1]["until"]) == (3, None)
    assert attempt(run, form, fetch, SHORT) == 5
    assert [t["failed"] for t in run.tries] == [1, 2, 3, 1]


@FORMS
@pytest.mark.parametrize(
    "error",
    [FatalError("no"), NotRecordableError("$", "object", "not-json-type", "no"), FencedError("newer")],
)
def test_a_permanent_error_is_not_tried_again_and_leaves_no_record(form: str, error: Exception):
    run, fetch = Run(), Flaky(9, lambda: error)
    with pytest.raises(type(error)):
        attempt(run, form, fetch, SHORT)
    assert (fetch.calls, run.keys) == (1, [])


@FORMS
def test_the_function_decides_by_error(form: str):
    def when(error: Exception) -> bool | float | timedelta | None:
        return {"never": False, "soon": 2.5, "later": timedelta(hours=1), "yes": True}.get(str(error))

    def policy(**changes: object) -> Retry:
        return Retry(**({"max_attempts": 9, "min_seconds": 1, "randomize": False, "when": when} | changes))  # type: ignore[arg-type]

    run, words = Run(), iter(["soon", "yes", "else", "never"])
    with pytest.raises(LookupError, match="never"):
        attempt(run, form, Flaky(9, lambda: LookupError(next(words))), policy())
    assert [t["seconds"] for t in run.tries] == [2.5, 2.0, 4.0, 0.0]
    run = Run()
    assert attempt(run, form, Flaky(1, lambda: FatalError("yes")), policy()) == 2, "its word is the last"
    run = Run()
    with pytest.raises(LeftError):
        attempt(run, form, Flaky(1, lambda: ValueError("later")), policy())
    assert run.waits[0][0].seconds == 3600.0
    run = Run()
    with pytest.raises(TypeError, match="gives a bool, seconds, a timedelta or None, not 'x'"):
        attempt(run, form, Flaky(1), policy(when=lambda _error: "x"))


@FORMS
def test_an_older_sidecar_that_knows_no_such_wait_makes_the_attempt_wait_itself(form: str):
    run, fetch = Run(refusal=NotRecordableError("$", "value", "bad-member", "waits[0].kind")), Flaky(2)
    assert attempt(run, form, fetch, LONG) == 3
    assert run.now == pytest.approx(1_000_180.0)


@FORMS
def test_being_fenced_while_it_leaves_reaches_the_task(form: str):
    run = Run(refusal=FencedError("a newer attempt runs"))
    with pytest.raises(FencedError):
        attempt(run, form, Flaky(2), LONG)


def test_the_steps_in_a_step_that_is_tried_again_do_not_run_again():
    calls: list[str] = []

    async def task(ctx: Context) -> object:
        @step
        async def inner(word: str) -> str:
            calls.append(word)
            return word

        async def refused() -> None:
            calls.append("refused")
            raise KeyError("sold out")

        async def outer() -> list[object]:
            calls.append("outer")
            got = [await inner("a"), *await asyncio.gather(inner("b"), inner("c"))]
            try:
                await ctx.step("refused", refused)
            except KeyError:
                got.append(await ctx.step("explicit", inner.__wrapped__, "d", key="own"))  # type: ignore[attr-defined]
            if calls.count("outer") < 3:
                raise TimeoutError
            return got

        return await ctx.step("outer", outer, retry=SHORT)

    run = Run()
    assert run.do(task) == ["a", "b", "c", "d"]
    assert sorted(calls) == ["a", "b", "c", "d", "outer", "outer", "outer", "refused"]
    assert run.do(task) == ["a", "b", "c", "d"]


def test_retries_within_retries_count_each_on_its_own():
    inner, outer = Flaky(3), Flaky(1)

    def task(ctx: SyncContext) -> object:
        def body() -> object:
            value = ctx.step("inner", inner, retry=SHORT)
            return value, outer()

        return ctx.step("outer", body, retry=SHORT)

    run = Run()
    assert run.do_plain(task) == (4, 2)
    assert [r.value["failed"] for r in run.records if r.key == "~retry/outer>inner"] == [1, 2, 3]  # type: ignore[index]


@FORMS
def test_a_wait_in_the_body_of_a_step_never_ends_the_attempt(form: str):
    charge, fetch = Flaky(0), Flaky(1)

    async def task(ctx: Context) -> object:
        async def body() -> object:
            charge()
            return await ctx.step("fetch", fetch, retry=LONG)

        return await ctx.step("order", body)

    def plain(ctx: SyncContext) -> object:
        def body() -> object:
            charge()
            return ctx.step("fetch", fetch, retry=LONG)

        return ctx.step("order", body)

    run = Run()
    assert (run.do(task) if form == "async" else run.do_plain(plain)) == 2
    assert charge.calls == 1
    assert not run.waits


def test_a_cancelled_plain_task_is_told_once_and_may_then_clean_up():
    run, cleaned = Run(), []

    def task(ctx: SyncContext) -> None:
        def fail() -> None:
            ctx.cancel()
            raise TimeoutError

        try:
            ctx.step("fetch", fail, retry=SHORT)
        finally:
            cleaned.append(ctx.checkpoint("state", {"n": 1}))
            cleaned.append(ctx.step("undo", Flaky(1), retry=LONG))

    with pytest.raises(asyncio.CancelledError):
        run.do_plain(task)
    assert cleaned == [1, 2], "what cleans up is not ended to wait"


@FORMS
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("write", range(1, 8))
def test_a_death_at_any_write_repeats_at_most_the_one_try(form: str, after: bool, write: int):
    calls = {"a": 0, "b": 0, "c": 0}
    effects: list[str] = []

    def call(name: str, failures: int) -> str:
        calls[name] += 1
        effects.append(name)
        failed = sum(1 for t in run.tries if t["step"] == name)
        if failed < failures:
            raise TimeoutError(name)
        return name

    async def task(ctx: Context) -> object:
        async def of(name: str, failures: int) -> str:
            return call(name, failures)

        got = [await ctx.step("a", of, "a", 0), await ctx.step("b", of, "b", 2, retry=SHORT)]
        return [*got, await ctx.step("c", of, "c", 2, retry=LONG)]

    def plain(ctx: SyncContext) -> object:
        got = [ctx.step("a", call, "a", 0), ctx.step("b", call, "b", 2, retry=SHORT)]
        return [*got, ctx.step("c", call, "c", 2, retry=LONG)]

    run = Run()
    setattr(run, "dies_after" if after else "dies_before", write if after else write - 1)
    result, died = None, 0
    while result is None:
        try:
            result = run.do(task) if form == "async" else run.do_plain(plain)
        except LeftError:
            run.now += 600
        except DiedError:
            died += 1
    assert (result, died) == (["a", "b", "c"], 1)
    assert sum(calls.values()) <= 7 + (0 if after else 1)
    for name in ("b", "c"):
        assert [t["failed"] for t in run.tries if t["step"] == name] == [1, 2]


def test_what_is_no_policy_is_refused():
    with pytest.raises(TypeError, match=r"a milepost\.Retry, such as"):
        step(retry=5)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"a milepost\.Retry, such as"):
        Run().do_plain(lambda ctx: ctx.step("s", Flaky(0), retry=5))  # type: ignore[arg-type]


def test_keys_of_tries_are_ours_and_fit():
    assert tries_key("~1/fetch#2") == "~retry/~1/fetch#2"
    assert len(tries_key("ä" * 256)) == len(TRIES) + 32 * 2
    assert tries_key("ä" * 256) != tries_key("ö" * 256)
    with pytest.raises(StepKeyError, match="can't begin with '~retry/'"):
        Run().do_plain(lambda ctx: ctx.checkpoint("~retry/fetch", 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_attempts": 0}, "max_attempts is a whole number from 1 to 1000, not 0"),
        ({"max_attempts": 2.5}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
        ({"factor": 0.5}, "factor is a number from 1 to 86400, not 0.5"),
        ({"min_seconds": -1}, "min_seconds"),
        ({"max_seconds": float("nan")}, "max_seconds"),
        ({"hold_seconds": "5"}, "hold_seconds"),
        ({"min_seconds": 90}, "min_seconds 90 is above max_seconds 60"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Retry(**changes)


@given(
    st.integers(1, 1000),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1e6),
    st.floats(-1e5, 1e5),
)
def test_delays_are_within_their_bounds(failures: int, chance: float, asked: float, skew: float):
    policy = Retry(max_attempts=1000, min_seconds=0.5, max_seconds=60)
    assert 0.25 <= policy.backoff(failures, chance) <= 60
    tries = Tries("s", Retry(max_attempts=2, when=lambda _error: asked))
    seconds = tries.after(ValueError(), 1e6, chance)
    assert seconds == min(asked, 86400.0)
    again = Tries("s", tries.policy, tries.record())
    assert 0 <= again.owed(1e6 + skew) <= seconds + 1e-3, "no clock makes a wait longer than it is"


def test_a_server_that_asks_for_time_gets_it_with_some_chance_added():
    class SlowDownError(Exception):
        status_code = 429
        headers = {"Retry-After": "100"}  # noqa: RUF012

    for chance, seconds in ((0.0, 100.0), (0.999, 109.99)):
        assert Tries("s", Retry()).after(SlowDownError(), 0.0, chance) == pytest.approx(seconds)
    assert Tries("s", Retry(randomize=False, min_seconds=200, max_seconds=200)).after(SlowDownError(), 0.0, 0) == 200
    assert judge(SlowDownError(), lambda _error: True).verdict.after_seconds == 100.0


def test_what_is_recorded_of_an_error_can_be_kept_and_told():
    tries = Tries("s", Retry())
    tries.after(ValueError("nul \0 lone \ud800 " + "x" * 9000), 0.0, 0.0)
    assert len(str(tries.record()["error"])) < 500
    wait = tries.wait(0.0)
    assert wait.name is not None
    assert len(wait.name) <= 256
    wait.name.encode()
    assert "\x00" not in wait.name


def test_nothing_is_kept_of_steps_outside_of_a_retried_one():
    assert retried.get(None) is None
    body = Retried()
    body.kept("a", b"{}")
    assert body.take() == (set(), {"a": b"{}"})
    assert body.take() == (set(), {})
