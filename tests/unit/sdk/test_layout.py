"""Recorded state across a breaking change: layouts, and the function that migrates."""

from dataclasses import dataclass

import pytest

from milepost import MISSING, ChangedCodeError, Context, Recorded, StepKeyError, SyncContext, step, task
from milepost.testing import AsyncTaskRun, TaskRun, after


@dataclass
class Page:
    url: str
    words: int


@step
async def fetch(url: str) -> str:
    return f"text of {url}"


@task(id="index")
async def first(ctx: Context, url: str) -> object:
    text = await fetch(url)
    words = await ctx.step("count", len, text)
    done = await ctx.restore("done", 0)
    await ctx.checkpoint("done", done + 1)
    return [words, done]


def to_second(recorded: Recorded, since: int) -> None:
    assert since == 1
    recorded.steps.rename("fetch", "download")
    if "count" in recorded.steps:
        recorded.steps["page"] = Page("u", int(str(recorded.steps.pop("count"))))
    recorded.steps["check"] = "ok"
    if "done" in recorded.checkpoints:
        recorded.checkpoints["done"] = {"turns": recorded.checkpoints["done"]}


async def download(url: str) -> str:
    return f"TEXT of {url}"


@task(id="index", layout=2, migrate=to_second)
async def second(ctx: Context, url: str) -> object:
    checked = await ctx.step("check", lambda: "checked")
    text = await ctx.step("download", download, url)
    page: Page = await ctx.step("page", lambda: Page(url, len(text)))
    done = await ctx.restore("done", {"turns": 0})
    await ctx.checkpoint("done", {"turns": done["turns"] + 1})
    await ctx.step("last", lambda: 1)
    return [checked, text, page.words, done]


INPUT = {"url": "u"}


async def test_a_run_goes_on_in_another_layout():
    run = AsyncTaskRun(first, INPUT)
    await run.attempt(crash=after("done"))
    run.task = second
    assert await run.finish() == ["ok", "text of u", 9, {"turns": 1}]
    assert run.executions == {"fetch": 1, "count": 1, "last": 1}
    assert run.steps == {"fetch": "text of u", "count": 9, "last": 1}
    assert run.checkpoints == {"done": [1, {"turns": 2}]}


async def test_a_layout_is_migrated_in_each_attempt_and_what_follows_is_not():
    run = AsyncTaskRun(first, INPUT)
    await run.attempt(crash=after("fetch"))
    run.task = second
    for place in ("page", "done", "last"):
        await run.attempt(crash=after(place))
    assert await run.finish() == ["ok", "text of u", 9, {"turns": 2}]
    assert run.executions == {"fetch": 1, "page": 1, "last": 1}
    assert [r.write.value for r in run.records if r.key.startswith("~layout/")] == ["2"]


async def test_what_new_code_recorded_is_checked_again():
    @task(id="index", layout=2, migrate=to_second)
    async def third(ctx: Context, url: str) -> object:
        await ctx.step("check", lambda: "checked")
        await ctx.step("download", download, url)
        await ctx.step("odd", lambda: 1)
        return await ctx.step("page", lambda: Page(url, 1))

    run = AsyncTaskRun(first, INPUT)
    await run.attempt(crash=after("fetch"))
    run.task = second
    await run.attempt(crash=after("page"))
    run.task = third
    with pytest.raises(ChangedCodeError, match="at step 'odd': recorded step 'page' as call 3"):
        await run.finish()


async def test_a_fresh_run_tells_its_layout_and_goes_back_to_none():
    run = AsyncTaskRun(second, INPUT)
    await run.attempt(crash=after("download"))
    run.task = first
    with pytest.raises(
        ChangedCodeError, match="in its layout: recorded records of layout 2; found code of layout 1"
    ) as e:
        await run.finish()
    assert (e.value.difference, e.value.step, run.state) == ("layout", "", "failed")
    assert "fetch" not in run.executions


async def test_without_a_function_nothing_runs():
    @task(id="index", layout=2)
    async def no_function(ctx: Context, url: str) -> object:
        return await ctx.step("new", download, url)

    run = AsyncTaskRun(first, INPUT)
    await run.attempt(crash=after("fetch"))
    run.task = no_function
    with pytest.raises(ChangedCodeError, match="give the task migrate="):
        await run.finish()
    assert run.executions == {"fetch": 1}


async def test_a_run_without_records_needs_no_function():
    @task(id="index")
    async def nothing() -> None:
        raise ValueError("not yet")

    run = AsyncTaskRun(nothing)
    await run.attempt()
    run.task = second
    run._input = '{"url": "u"}'
    assert (await run.finish())[0] == "checked"


async def test_layouts_one_after_the_other():
    since: list[int] = []

    def to_third(recorded: Recorded, of: int) -> None:
        since.append(of)
        for key in list(recorded.steps):
            recorded.steps.rename(key, f"{of}/{key}")

    @task(id="index", layout=3, migrate=to_third)
    async def third(ctx: Context, url: str) -> object:
        return [str(await ctx.step(key, lambda: f"new {url}")) for key in ("1/fetch", "2/page", "3/new")]

    run = AsyncTaskRun(first, INPUT)
    await run.attempt(crash=after("fetch"))
    run.task = second
    await run.attempt(crash=after("page"))
    run.task = third
    await run.attempt(crash=after("3/new"))
    assert await run.finish() == ["text of u", "Page(url='u', words=9)", "new u"]
    assert since == [1, 2] * 2


async def test_an_error_of_the_function_is_the_attempts():
    def broken(recorded: Recorded, _since: int) -> None:
        recorded.steps["nothing"].upper()  # type: ignore[union-attr]

    @task(id="index", layout=2, migrate=broken)
    async def other(ctx: Context, url: str) -> object:
        return await ctx.step("new", download, url)

    run = AsyncTaskRun(first, INPUT, max_attempts=2)
    await run.attempt(crash=after("fetch"))
    run.task = other
    with pytest.raises(KeyError, match="nothing"):
        await run.finish()
    assert run.executions == {"fetch": 1}


def test_plain_tasks_migrate_too():
    @task(id="plain")
    def old(ctx: SyncContext) -> int:
        return ctx.step("a", lambda: 1)

    @task(id="plain", layout=2, migrate=lambda recorded, _: recorded.steps.rename("a", "b"))
    def new(ctx: SyncContext) -> int:
        return ctx.step("b", lambda: 2)

    run = TaskRun(old)
    run.attempt(crash=after("a"))
    run.task = new
    assert run.finish() == 1


async def test_what_the_function_can_do():
    seen: dict[str, object] = {}

    def migrate(recorded: Recorded, _since: int) -> None:
        steps = recorded.steps
        seen.update(steps)
        seen["checkpoints"] = dict(recorded.checkpoints)
        steps.rename("not there", "anything")
        with pytest.raises(StepKeyError, match="'fails' can't become 'fetch': that is recorded, too"):
            steps.rename("fails", "fetch")
        with pytest.raises(StepKeyError, match="a key has 1 to 512 bytes"):
            steps["k" * 600] = 1
        del steps["fetch"]
        recorded.checkpoints.clear()

    @task(id="both")
    async def old(ctx: Context) -> None:
        await fetch("u")
        try:
            await ctx.step("fails", lambda: 1 / 0)
        except ZeroDivisionError:
            await ctx.checkpoint("c", {"n": 1})

    @task(id="both", layout=2, migrate=migrate)
    async def new(ctx: Context) -> object:
        try:
            await ctx.step("fails", lambda: 1)
        except ZeroDivisionError as error:
            return [str(error), await fetch("again"), await ctx.restore("c") is MISSING]

    run = AsyncTaskRun(old)
    await run.attempt(crash=after("c"))
    run.task = new
    assert await run.finish() == ["division by zero", "text of again", True]
    assert seen["checkpoints"] == {"c": {"n": 1}}
    assert seen["fails"]["type"] == "builtins:ZeroDivisionError"  # type: ignore[index]


def test_layouts_that_are_none():
    for bad in (0, -1, True, 1.5, "2"):
        with pytest.raises(ValueError, match="the layout of a task's records is a whole number, 1 or more"):
            task(id="a", layout=bad)(lambda: 1)  # type: ignore[call-overload]

    async def later(_recorded: Recorded, _since: int) -> None: ...

    with pytest.raises(TypeError, match="migrate= is a plain function"):
        task(id="a", migrate=later)(lambda: 1)
