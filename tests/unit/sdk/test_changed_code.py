"""Code that changes between two attempts, in both kinds of task."""

# ruff: noqa: E501  (a case is a line)

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from urllib.parse import unquote

import pytest

from milepost import ChangedCodeError, Context, SyncContext
from milepost.net.messages import Headers, Reply
from milepost.sdk.context import enter
from milepost.sdk.journal import Journal
from milepost.sdk.run import AttemptInfo, RunInfo
from milepost.sdk.scope import spawn
from milepost.sdk.sync import enter_sync
from milepost.wire.local import EXIT_FAILED
from tests.unit.sdk.conftest import Pod
from tests.unit.sdk.test_runner import HEAD

STEPS = """
def done(name, *args):
    note(name)
    return name

@step
def add(n, top=0):
    note("add", n)
    return n

@step(key=lambda n: f"item/{n}")
def item(n):
    note("item", n)
    return n

@step(key=lambda n: f"item/{n}")
def other(n):
    note("other", n)
    return n
"""


def source(body: str, form: str, end: str = 'raise RuntimeError("again")') -> str:
    """A task of these lines; `form`: async or plain."""
    text = dedent(body).strip() + f"\nif ctx.run.attempt == 1:\n    {end}\n"
    if form == "plain":
        text = text.replace("await ", "")
    head = "@task\nasync def main(ctx):\n" if form == "async" else "@task\ndef main(ctx: SyncContext):\n"
    indented = "".join(f"    {line}\n" for line in text.splitlines())
    return HEAD + STEPS + head + indented + '    return "the end"\n'


class Kept:
    """The records of a run, in memory; `words`: what its task noted in the last attempt."""

    def __init__(self) -> None:
        self.records: dict[str, dict] = {}
        self.words: list[str] = []
        self.log: list[str] = []

    def write(self, target: str, headers: Headers, body: bytes, attempt: int) -> Reply:
        told, (_, _, kind, key) = dict(headers), target.split("/")
        assert kind == "checkpoints" or key not in self.records
        self.records[key] = {
            "seq": len(self.records) + 1, "kind": kind[:-1], "key": unquote(key), "value": json.loads(body),
            "types": told.get("Milepost-Types"), "fingerprint": told.get("Milepost-Fingerprint"), "attempt": attempt,
            "failed": told.get("Milepost-Failed") == "true",
        }  # fmt: skip
        return Reply(200, {}, b'{"seq": 1}')

    def attempt(self, text: str, number: int, **start: object) -> str:
        """Run an attempt in this process; what it returned. Raises what ended it."""
        run = RunInfo("run-1", "r", "n", "t", 1, number, "first", 3, (), "")
        journal = Journal(AttemptInfo(run, None, None, None, 10**6, 10**6, 1, 0, **start))
        for record in self.records.values():
            journal.load(json.dumps(record).encode())
        self.words.clear()
        module: dict = {"__name__": "task"}
        exec(compile(text, "/user/task.py", "exec"), module)
        module["note"] = lambda *words: self.words.extend(map(str, words))
        fn = module["main"]
        try:
            return asyncio.run(self._run(fn, journal)) if fn.is_async else copy_context().run(self._plain, fn, journal)
        finally:
            journal.check_intact()

    async def _run(self, fn: Callable, journal: Journal) -> str:
        kept = self

        class Sidecar:
            async def call(self, _method: str, target: str, headers: Headers, body: bytes = b"") -> Reply:
                await asyncio.sleep(0)
                return kept.write(target, headers, body, journal.attempt.run.attempt)

        asyncio.get_running_loop().set_task_factory(spawn)
        context = Context(journal, Sidecar())
        enter(context)
        return await fn(context)

    def _plain(self, fn: Callable, journal: Journal) -> str:
        def call(_method: str, target: str, headers: Headers, body: bytes = b"") -> Reply:
            return self.write(target, headers, body, journal.attempt.run.attempt)

        context = SyncContext(journal, SimpleNamespace(call=call))
        enter_sync(context)
        return fn(context)


@pytest.fixture
def kept() -> Kept:
    return Kept()


def two_attempts(kept: Kept, first: str, second: str, form: str = "async", **start: object) -> ChangedCodeError | None:
    """Run one code to its end without a result, then another; the change that was found."""
    with pytest.raises(RuntimeError, match="again"):
        kept.attempt(source(first, form), 1)
    try:
        assert kept.attempt(source(second, form), 2, **start) == "the end"
    except ChangedCodeError as error:
        return error
    return None


A, B, C = ('await ctx.step("a", done, "a")', 'await ctx.step("b", done, "b")', 'await ctx.step("c", done, "c")')
ABC = f"{A}\n{B}\n{C}"
GATHER = "await asyncio.gather({})"


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


WORKERS = """
async def worker(n):
    await ctx.step("w", done, "w", n)

async def beat():
    await asyncio.sleep(0)

"""


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (GATHER.format("worker(1), worker(2)"), GATHER.format("worker(2), worker(1)"), "'~1/w': recorded argument 2"),
        (
            GATHER.format('ctx.step("a", done, "a"), ctx.step("b", done, "b")'),
            GATHER.format('ctx.step("b", done, "b"), ctx.step("a", done, "a")'),
            "at step '~1/b': recorded step '~1/a' as call 1 of branch '~1'; found step '~1/b' there",
        ),
        (
            GATHER.format("worker(1), worker(2)"),
            "task = asyncio.create_task(beat()); " + GATHER.format("worker(1), worker(2)"),
            "recorded branch '~1' as main.<locals>.worker; found main.<locals>.beat",
        ),
        (GATHER.format("worker(1), worker(2)"), GATHER.format('worker(1), ctx.step("w", done, "w", 2)'), "recorded"),
        ("await ctx.map(worker, [1, 2, 3])", "await ctx.map(worker, [1, 3, 2])", "at step '~2/w'"),
    ],
)
def test_branches_that_changed(kept: Kept, first: str, second: str, says: str):
    assert says in str(two_attempts(kept, WORKERS + first, WORKERS + second))
    assert kept.words == []


def test_branches_end_in_any_order(kept: Kept):
    body = """
    async def worker(n):
        await asyncio.sleep(0.2 if n % 2 == ctx.run.attempt % 2 else 0)
        await ctx.step("w", done, "w", n)
        await ctx.step("v", done, "v", n)

    await asyncio.gather(*(worker(n) for n in range(4)), ctx.map(worker, range(4, 8), concurrency=2))
    """
    assert two_attempts(kept, body, body) is None
    assert kept.words == []


def test_a_step_that_was_cut_short_leaves_its_place_free(kept: Kept):
    body = (
        """
    try:
        async with asyncio.timeout(0.05):
            await ctx.step("slow", asyncio.sleep, 9)
    except TimeoutError:
        note("late")
    """
        "\n    await ctx.step('b', done, 'b')"
    )
    assert two_attempts(kept, body, body) is None
    assert [r["fingerprint"][0] for r in kept.records.values()] == ["2"]


@pytest.mark.parametrize(
    "join",
    [
        "await asyncio.gather(fails(), ok(), return_exceptions=True)",
        "await ctx.all_settled(fails(), ok())",
        "await caught(asyncio.create_task(fails()))",
        "await nested()",
    ],
)
def test_a_failure_that_a_parent_went_on_from_is_replayed(kept: Kept, join: str):
    """Else the step would run again, might succeed, and the task would go another way than its records."""
    body = f"""
    async def fails():
        await ctx.step("fails", lambda: 1 / (ctx.run.attempt - 1))

    async def ok():
        await ctx.step("ok", done, "ok")

    async def caught(awaitable):
        try:
            return await awaitable
        except ZeroDivisionError as error:
            return error

    async def nested():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(caught(asyncio.gather(fails(), ok()))), group.create_task(ok())]
        return [task.result() for task in tasks]

    found = {join}
    if "division" in repr(found) or "StepFailed" in repr(found):
        await ctx.step("fallback", done, "fallback")
    else:
        await ctx.step("main-way", done, "main-way")
    """
    assert two_attempts(kept, body, body) is None
    assert kept.words == []
    assert [r["value"]["type"] for r in kept.records.values() if r["failed"]] == ["builtins:ZeroDivisionError"]


def test_a_failure_that_nobody_looked_at_runs_afresh(kept: Kept):
    body = """
    async def fails():
        await ctx.step("fails", lambda: 1 / (ctx.run.attempt - 1))

    task = asyncio.create_task(fails())
    await asyncio.sleep(0.05)
    await ctx.step("meanwhile", done, "meanwhile")
    try:
        await task
    except ZeroDivisionError:
        raise RuntimeError("again") from None
    """
    assert two_attempts(kept, body, body) is None
    assert [(r["key"], r["failed"]) for r in kept.records.values()] == [("meanwhile", False), ("~1/fails", False)]


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


def test_nested_steps_are_in_an_order_of_their_own(kept: Kept):
    body = """
    async def outer():
        await ctx.step("one", done, "one")
        await ctx.step("two", done, "two")
        if ctx.run.attempt == 1:
            raise RuntimeError("again")

    await ctx.step("outer", outer)
    """
    assert two_attempts(kept, body, body) is None
    told = [(r["key"], r["fingerprint"].partition("(")[0]) for r in kept.records.values()]
    assert told == [("outer>one", "1"), ("outer>two", "2"), ("outer", "1")]
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


def test_branches_that_are_started_after_a_restore_have_no_order_to_keep(kept: Kept):
    body = """
    first = await ctx.restore("done", 0)
    for n in range(first, 3):
        await asyncio.gather(*(ctx.step(f"part/{n}/{m}", done, f"part/{n}/{m}") for m in range(2)))
        await ctx.checkpoint("done", n + 1)
        if n == 1 and ctx.run.attempt == 1:
            raise RuntimeError("again")
    """
    assert two_attempts(kept, body, body) is None
    assert kept.words == ["part/2/0", "part/2/1"]


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


def test_threads_of_the_users_own_are_in_no_branch(kept: Kept):
    body = """
    loop = asyncio.get_running_loop()

    def thread(name):
        return asyncio.run_coroutine_threadsafe(ctx.step(name, done, name), loop).result()

    import concurrent.futures
    with concurrent.futures.ThreadPoolExecutor() as pool:
        names = ["t1", "t2"] if ctx.run.attempt == 1 else ["t2", "t1"]
        await asyncio.gather(*(loop.run_in_executor(pool, thread, name) for name in names))
    """
    assert two_attempts(kept, body, body) is None
    assert kept.words == []


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
