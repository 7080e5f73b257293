"""Code that changes between two attempts, in both kinds of task."""

# ruff: noqa: E501  (a case is a line)

import contextlib
import logging
import re
from pathlib import Path

import pytest

from milepost import ChangedCodeError
from milepost.wire.local import EXIT_FAILED
from tests.unit.sdk.changing import ABC, A, B, C, Kept, source, two_attempts
from tests.unit.sdk.conftest import Pod


@pytest.mark.parametrize("form", ["async", "plain"])
@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ([A, B, C], [A, 'await ctx.step("x", done, "x")', B, C], "at step 'x': recorded step 'b' as call 2 of the task; found step 'x' there"),
        ([A, B, C], [A, C], "at step 'c': recorded as call 3; found as call 2"),
        ([A, B, C], [B, A, C], "at step 'b': recorded as call 2; found as call 1"),
        ([A, B], [A, C], "at step 'c': recorded step 'b' as call 2 of the task; found step 'c' there"),
        (['await ctx.step("a", done, "a", 1)'], ['await ctx.step("a", done, "a", 2)'], "argument 2 with checksum 83dcefb7; found 1ad5be0d"),
        (["await add(1, top=2)"], ["await add(1, top=3)"], "recorded argument 'top' with checksum"),
        (["await add(1)"], ["await add(1, top=3)"], "recorded 1 arguments by position; found 1 arguments by position and top by name"),
        (["await item(1)"], ["await other(1)"], "recorded by step 'item'; found by step 'other'"),
        (["await ctx.step('a', done, 'a', key='k')"], ["await ctx.step('a', done, 'b', key='k')"], "argument 1 with"),
        (["await ctx.step('a', done, 'a', key='k')"], ["await ctx.step('k', done, 'a')"], "recorded by step 'a'; found by a step without a key"),
        (["for n in range(3): await add(7)", B], ["for n in range(4): await add(7)", B], "at step 'add#4': recorded step 'b' as call 4"),
        (["for n in range(3): await add(7)", B], ["for n in range(2): await add(7)", B], "at step 'b': recorded as call 4; found as call 3"),
        (["for n in 'ab': await add(n)"], ["for n in 'ba': await add(n)"], "at step 'add': recorded argument 1"),
    ],
)  # fmt: skip
def test_a_change_is_told_before_anything_runs_twice(
    kept: Kept, first: list[str], second: list[str], says: str, form: str
):
    assert says in str(two_attempts(kept, "\n".join(first), "\n".join(second), form))
    assert kept.words == []


@pytest.mark.parametrize("form", ["async", "plain"])
@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ([A, B], [A, B, C], ["c"]),
        ([A, B], [A], []),
        (["await item(1)", "await item(2)"], ["await item(2)", "await item(3)", "await item(1)"], ["item", "3"]),
        ([A, "await item(1)", B], ["await item(1)", A, "await item(9)", B], ["item", "9"]),
        (['await ctx.step("a", done, "a", object(), ctx, ctx.log)'] * 2, ['await ctx.step("a", done, "a", object(), ctx, 1.0j)'] * 2, []),
        (['await ctx.step("a", lambda: 1)'], ['await ctx.step("a", lambda: done("x"))'], []),
        (["await add(1, top=2)"], ["await add(1, **{'top': 2})"], []),
    ],
)  # fmt: skip
def test_what_is_no_change(kept: Kept, first: list[str], second: list[str], words: list[str], form: str):
    assert two_attempts(kept, "\n".join(first), "\n".join(second), form) is None
    assert kept.words == words


@pytest.mark.parametrize("form", ["async", "plain"])
def test_a_task_that_swallows_the_error_runs_no_step_and_does_not_succeed(kept: Kept, form: str):
    swallowing = """
    for n in range(3):
        try:
            await ctx.step("x", done, "x")
        except Exception as error:
            note(type(error).__name__)
    try:
        await ctx.checkpoint("c", 1)
    except Exception as error:
        note(type(error).__name__)
    """
    assert two_attempts(kept, A, swallowing, form).difference == "order"
    assert kept.words == ["ChangedCodeError"] * 4
    assert list(kept.records) == ["a"]


@pytest.mark.parametrize("form", ["async", "plain"])
def test_a_value_that_no_longer_fits(kept: Kept, form: str):
    first = "def f() -> dict[str, int]: return {'a': 1}\nawait ctx.step('f', f)"
    second = "def f() -> list[int]: return [1]\nawait ctx.step('f', f)"
    error = two_attempts(kept, first, second, form)
    assert error.difference == "value"
    assert "at step 'f': recorded a value of another type; found an annotation that it does not fit: $:" in str(error)
    with pytest.raises(ChangedCodeError):  # there is nothing that could be given to the code
        kept.attempt(source(second, form), 3, on_change="accept")


@pytest.mark.parametrize("form", ["async", "plain"])
def test_accept_finds_records_by_their_keys_alone(kept: Kept, form: str, caplog: pytest.LogCaptureFixture):
    second = f'{C}\nawait ctx.step("x", done, "x")\nawait ctx.step("a", done, "another")'
    assert two_attempts(kept, ABC, second, form, on_change="accept") is None
    assert kept.words == ["x"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert "accepted: the code changed under this run at step 'c': recorded as call 3; found as call 1" in caplog.text


def test_a_replay_is_exempt_for_the_records_it_began_with(kept: Kept):
    with pytest.raises(RuntimeError):
        kept.attempt(source(ABC, "async"), 1)
    for record in kept.records.values():
        record["attempt"] = 0  # as they are copied
    first = 'await ctx.step("b", done, "new input")\nawait add(1)'
    with pytest.raises(RuntimeError):
        kept.attempt(source(first, "async"), 1, replay=True)
    assert kept.words == ["add", "1"]
    with pytest.raises(ChangedCodeError, match="at step 'add': recorded argument 1"):
        kept.attempt(source('await ctx.step("b", done, "newer input")\nawait add(2)', "async"), 2, replay=True)
    with pytest.raises(ChangedCodeError, match="at step 'b': recorded as call 2"):
        kept.attempt(source(first, "async"), 2)


@pytest.mark.parametrize("form", ["async", "plain"])
def test_records_of_before_fingerprints_are_accepted(kept: Kept, form: str):
    with pytest.raises(RuntimeError):
        kept.attempt(source(ABC, form), 1)
    for record, told in zip(kept.records.values(), (None, "v9 of later", None), strict=True):
        record["fingerprint"] = told
    kept.attempt(source(f'{C}\n{A}\nawait ctx.step("b", done, "z")', form), 2)
    assert kept.words == []


@pytest.mark.parametrize("form", ["async", "plain"])
def test_code_that_goes_on_from_a_checkpoint_leaves_out_what_is_done(kept: Kept, form: str):
    body = """
    await ctx.step("before", done, "before")
    first = await ctx.restore("done", 0)
    for n in range(first, 4):
        await ctx.step(f"part/{n}", done, f"part/{n}")
        await ctx.checkpoint("done", n + 1)
        if n == 1 and ctx.run.attempt == 1:
            raise RuntimeError("again")
    await ctx.step("after", done, "after")
    """
    assert two_attempts(kept, body, body, form) is None
    assert kept.words == ["part/2", "part/3", "after"]
    assert kept.attempt(source(body, form), 3) == "the end"
    assert kept.words == []
    with pytest.raises(ChangedCodeError, match="at step 'after': recorded argument 1"):
        kept.attempt(source(body, form).replace('done, "after"', 'done, "later"'), 3)
    with pytest.raises(ChangedCodeError, match="at step 'x': recorded step 'before'"):
        kept.attempt(source(body, form).replace('"before"', '"x"'), 3)


def test_an_argument_that_a_step_changed_is_found(kept: Kept):
    """The first attempt's list was changed in a step; in the second nothing changes it."""
    body = """
    items = []
    await ctx.step("fill", items.append, 1)
    await ctx.step("use", done, "use", items)
    """
    assert "at step 'use': recorded argument 2" in str(two_attempts(kept, body, body))


@pytest.mark.parametrize("form", ["async", "plain"])
def test_the_idempotency_key(kept: Kept, form: str):
    body = """
    def f(): note(ctx.idempotency_key); return 1
    await ctx.step("f", f)
    await ctx.step("f", f)
    await ctx.step("f", f, key="f/2")
    try: ctx.idempotency_key
    except Exception as error: note(type(error).__name__)
    """

    def keys(number: int, run: str) -> list[str]:
        kept.records.clear()
        with contextlib.suppress(RuntimeError):
            kept.attempt(source(body, form), number, key_run=run)
        *found, error = kept.words
        assert error == "StepKeyError"
        assert all(len(key) == 53 and key.startswith(run) for key in found)
        return found

    run, other = "0198c7a2-0000-7000-8000-000000000001", "0198c7a2-0000-7000-8000-000000000002"
    assert keys(1, run) == keys(2, run)
    assert len({*keys(1, run), *keys(1, other)}) == 6


def test_the_idempotency_key_below_a_step(kept: Kept):
    body = """
    async def deeper():
        note(ctx.idempotency_key)

    async def outer():
        note(ctx.idempotency_key)
        await asyncio.gather(deeper(), asyncio.to_thread(lambda: note(current().idempotency_key)))
        await ctx.step("inner", deeper)

    await ctx.step("outer", outer)
    """
    with pytest.raises(RuntimeError):
        kept.attempt(source(body, "async"), 1)
    outer, *below, inner = kept.words
    assert below == [outer, outer]
    assert inner != outer


SNIPPETS = re.findall(r"```python\n(.*?)```", Path("docs/changed-code.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("text", SNIPPETS)
def test_the_snippets_of_the_docs_resume(kept: Kept, text: str):
    ran = kept.attempt(text, 1)
    assert kept.records
    assert kept.attempt(text, 2) == ran


SWALLOWING = """
try:
    await ctx.step("x", done, "x")
except Exception:
    {}
"""


@pytest.mark.parametrize(
    ("form", "then", "on_change", "retryable"),
    [
        ("async", "raise", "fail", False),
        ("plain", "pass", "hold", None),
        ("async", "raise SystemExit(3)", "hold", None),
        ("plain", "raise KeyboardInterrupt", "fail", False),
    ],
)
async def test_whatever_the_task_makes_of_it_the_change_is_what_is_settled(
    pod: Pod, form: str, then: str, on_change: str, retryable: bool | None
):
    pod.source(source(A, form))
    assert await pod.run() == EXIT_FAILED
    pod.api.next_attempt()
    pod.api.start["on_change"] = on_change
    pod.source(source(SWALLOWING.format(then), form))
    assert await pod.run() == EXIT_FAILED
    failure = pod.api.settlements[-1]["failure"]
    assert (failure["kind"], failure["type"], failure["retryable"]) == ("changed", "ChangedCodeError", retryable)
    assert pod.words() == ["a"]
    assert [(r.key, r.fingerprint) for r in pod.api.records] == [("a", "1(9fb08ed5)")]
