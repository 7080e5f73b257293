"""Code that changes between two attempts: the true runner and sidecar, both kinds of task."""

import asyncio
import json
from textwrap import dedent

import pytest

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


async def two_attempts(pod: Pod, first: str, second: str, form: str = "async", **start: object) -> dict:
    """Run one code, then another; how the second attempt was settled. Words of the first are forgotten."""
    pod.source(source(first, form))
    assert await pod.run() == EXIT_FAILED
    assert pod.api.settlements[-1]["failure"]["type"] == "RuntimeError", pod.api.settlements
    (pod.home / "noted").unlink(missing_ok=True)
    pod.api.next_attempt()
    pod.api.start |= start
    pod.source(source(second, form))
    await pod.run()
    return pod.api.settlements[-1]


A, B, C = ('await ctx.step("a", done, "a")', 'await ctx.step("b", done, "b")', 'await ctx.step("c", done, "c")')
ABC = "\n".join([A, B, C])
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
async def test_a_change_is_told_before_anything_runs_twice(
    pod: Pod, first: list[str], second: list[str], says: str, form: str
):
    settled = await two_attempts(pod, "\n".join(first), "\n".join(second), form)
    failure = settled["failure"]
    assert (failure["kind"], failure["type"], failure["retryable"]) == ("changed", "ChangedCodeError", False)
    assert says in failure["message"]
    assert pod.words() == []


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
async def test_what_is_no_change(pod: Pod, first: list[str], second: list[str], words: list[str], form: str):
    settled = await two_attempts(pod, "\n".join(first), "\n".join(second), form)
    assert settled["outcome"] == "succeeded", settled["failure"]
    assert pod.words() == words


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
async def test_branches_that_changed(pod: Pod, first: str, second: str, says: str):
    settled = await two_attempts(pod, WORKERS + first, WORKERS + second)
    assert settled["failure"]["kind"] == "changed", settled
    assert says in settled["failure"]["message"]
    assert pod.words() == []


async def test_branches_end_in_any_order(pod: Pod):
    body = """
    async def worker(n):
        await asyncio.sleep(0.2 if n % 2 == ctx.run.attempt % 2 else 0)
        await ctx.step("w", done, "w", n)
        await ctx.step("v", done, "v", n)

    await asyncio.gather(*(worker(n) for n in range(4)), ctx.map(worker, range(4, 8), concurrency=2))
    """
    assert (await two_attempts(pod, body, body))["outcome"] == "succeeded"
    assert pod.words() == []


async def test_a_step_that_was_cut_short_leaves_its_place_free(pod: Pod):
    body = (
        """
    try:
        async with asyncio.timeout(0.05):
            await ctx.step("slow", asyncio.sleep, 9)
    except TimeoutError:
        note("late")
    """
        + "\n    await ctx.step('b', done, 'b')"
    )
    settled = await two_attempts(pod, body, body)
    assert settled["outcome"] == "succeeded", settled["failure"]
    assert [r.fingerprint[0] for r in pod.api.records] == ["2"]


@pytest.mark.parametrize(
    "join",
    [
        "await asyncio.gather(fails(), ok(), return_exceptions=True)",
        "await ctx.all_settled(fails(), ok())",
        "await caught(asyncio.create_task(fails()))",
        "await nested()",
    ],
)
async def test_a_failure_that_a_parent_went_on_from_is_replayed(pod: Pod, join: str):
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
    settled = await two_attempts(pod, body, body)
    assert settled["outcome"] == "succeeded", settled["failure"]
    assert pod.words() == []
    assert [json.loads(r.value)["type"] for r in pod.api.records if r.failed] == ["builtins:ZeroDivisionError"]


async def test_a_failure_that_nobody_looked_at_runs_afresh(pod: Pod):
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
    settled = await two_attempts(pod, body, body)
    assert settled["outcome"] == "succeeded", settled["failure"]
    assert [(r.key, r.failed) for r in pod.api.records] == [("meanwhile", False), ("~1/fails", False)]


@pytest.mark.parametrize("form", ["async", "plain"])
async def test_a_task_that_swallows_the_error_runs_no_step_and_does_not_succeed(pod: Pod, form: str):
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
    settled = await two_attempts(pod, A, swallowing, form)
    assert settled["failure"]["kind"] == "changed"
    assert pod.words() == ["ChangedCodeError"] * 4
    assert [r.key for r in pod.api.records] == ["a"]


@pytest.mark.parametrize("end", ["raise SystemExit(3)", "raise KeyboardInterrupt", "raise ValueError('mine')"])
async def test_whatever_ends_the_task_after_it_the_change_is_what_is_told(pod: Pod, end: str):
    swallowing = f"""
    try:
        await ctx.step("x", done, "x")
    except Exception:
        {end}
    """
    assert (await two_attempts(pod, A, swallowing))["failure"]["kind"] == "changed"


@pytest.mark.parametrize("form", ["async", "plain"])
async def test_a_value_that_no_longer_fits(pod: Pod, form: str):
    first = "def f() -> dict[str, int]: return {'a': 1}\nawait ctx.step('f', f)"
    second = "def f() -> list[int]: return [1]\nawait ctx.step('f', f)"
    failure = (await two_attempts(pod, first, second, form))["failure"]
    assert failure["kind"] == "changed"
    assert (
        "at step 'f': recorded a value of another type; found an annotation that it does not fit: $:"
        in failure["message"]
    )
    pod.api.next_attempt()
    pod.api.start["on_change"] = "accept"
    await pod.run()
    assert pod.api.settlements[-1]["failure"]["kind"] == "changed"  # there is nothing that could be given to the code


async def test_hold_is_left_to_the_engine(pod: Pod):
    failure = (await two_attempts(pod, A, B, on_change="hold"))["failure"]
    assert (failure["kind"], failure["retryable"]) == ("changed", None)


@pytest.mark.parametrize("form", ["async", "plain"])
async def test_accept_finds_records_by_their_keys_alone(pod: Pod, form: str):
    second = "\n".join([C, 'await ctx.step("x", done, "x")', 'await ctx.step("a", done, "another")'])
    settled = await two_attempts(pod, ABC, second, form, on_change="accept")
    assert settled["outcome"] == "succeeded"
    assert pod.words() == ["x"]
    log = pod.log.read_text()
    assert "accepted: the code changed under this run at step 'c': recorded as call 3; found as call 1" in log


async def test_a_replay_is_exempt_for_the_records_it_began_with(pod: Pod):
    pod.source(source(ABC, "async"))
    assert await pod.run() == EXIT_FAILED
    for record in pod.api.records:
        record.attempt = 0  # as they are copied
    pod.api.start["origin"] = "replay"
    pod.api.next_attempt()
    pod.source(
        source('await ctx.step("b", done, "new input")\nawait add(1)', "async").replace("attempt == 1", "attempt == 2")
    )
    assert await pod.run() == EXIT_FAILED
    assert pod.api.settlements[-1]["failure"]["type"] == "RuntimeError"
    pod.api.next_attempt()
    pod.source(source('await ctx.step("b", done, "newer input")\nawait add(2)', "async"))
    await pod.run()
    assert "at step 'add': recorded argument 1" in pod.api.settlements[-1]["failure"]["message"]


async def test_records_of_before_fingerprints_are_accepted(pod: Pod):
    pod.source(source(ABC, "async"))
    assert await pod.run() == EXIT_FAILED
    for record, told in zip(pod.api.records, (None, "v9 of later", None), strict=True):
        record.fingerprint = told
    pod.api.next_attempt()
    pod.source(source("\n".join([C, A, 'await ctx.step("b", done, "z")']), "async"))
    assert await pod.run() == 0
    assert pod.words() == ["a", "b", "c"]


async def test_nested_steps_are_in_an_order_of_their_own(pod: Pod):
    body = """
    async def outer():
        await ctx.step("one", done, "one")
        await ctx.step("two", done, "two")
        if ctx.run.attempt == 1:
            raise RuntimeError("again")

    await ctx.step("outer", outer)
    """
    settled = await two_attempts(pod, body, body)
    assert settled["outcome"] == "succeeded", settled["failure"]
    assert [(r.key, r.fingerprint) for r in pod.api.records][:2] == [
        ("outer>one", "1(9b3ff8d5)"), ("outer>two", "2(d6d3e3f0)"),
    ]  # fmt: skip
    assert pod.words() == []


async def test_an_argument_that_a_step_changed_is_found(pod: Pod):
    """The first attempt's list was changed in a step; in the second nothing changes it."""
    body = """
    items = []
    await ctx.step("fill", items.append, 1)
    await ctx.step("use", done, "use", items)
    """
    assert "at step 'use': recorded argument 2" in (await two_attempts(pod, body, body))["failure"]["message"]


@pytest.mark.parametrize("form", ["async", "plain"])
async def test_the_idempotency_key(pod: Pod, form: str):
    body = """
    def f(): note(ctx.idempotency_key); return 1
    await ctx.step("f", f)
    await ctx.step("f", f)
    await ctx.step("f", f, key="f/2")
    try: ctx.idempotency_key
    except Exception as error: note(type(error).__name__)
    """
    pod.api.start["key_run"] = "0198c7a2-0000-7000-8000-000000000001"
    pod.source(source(body, form))
    await pod.run()
    *first, error = pod.words()
    assert error == "StepKeyError"
    assert len(set(first)) == 3
    assert all(len(key) == 53 and key.startswith(pod.api.start["key_run"]) for key in first)
    pod.api.records.clear()
    pod.api.next_attempt()
    await pod.run()
    assert pod.words()[4:7] == first
    del pod.api.start["key_run"]
    pod.api.records.clear()
    pod.api.next_attempt()
    await pod.run()
    assert [key.startswith("run-1-") for key in pod.words()[8:11]] == [True] * 3


async def test_the_idempotency_key_below_a_step(pod: Pod):
    body = """
    async def deeper():
        note(ctx.idempotency_key)

    async def outer():
        note(ctx.idempotency_key)
        await asyncio.gather(deeper(), asyncio.to_thread(lambda: note(current().idempotency_key)))
        await ctx.step("inner", deeper)

    await ctx.step("outer", outer)
    """
    pod.source(source(body, "async"))
    await pod.run()
    outer, *below, inner = pod.words()
    assert below == [outer, outer]
    assert inner != outer


async def test_threads_of_the_users_own_are_in_no_branch(pod: Pod):
    body = """
    loop = asyncio.get_running_loop()

    def thread(name):
        return asyncio.run_coroutine_threadsafe(ctx.step(name, done, name), loop).result()

    import concurrent.futures
    with concurrent.futures.ThreadPoolExecutor() as pool:
        names = ["t1", "t2"] if ctx.run.attempt == 1 else ["t2", "t1"]
        await asyncio.gather(*(loop.run_in_executor(pool, thread, name) for name in names))
    """
    assert (await two_attempts(pod, body, body))["outcome"] == "succeeded"
    assert pod.words() == []
    await asyncio.sleep(0)
