"""Code that changes under branches, nested steps and failures that were caught."""

import pytest

from tests.unit.sdk.changing import GATHER, Kept, two_attempts

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
