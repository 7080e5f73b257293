"""Keys and values that people come up with: refused with what is wrong, or kept as they are."""

import pytest

from milepost import Context, NotRecordableError, StepKeyError, SyncContext, step, task
from milepost.testing import AsyncTaskRun, TaskRun, after


@step(key=lambda _: "same")
async def one(n: int) -> int:
    return n


async def test_two_steps_with_one_key():
    @task
    async def main(ctx: Context) -> None:
        await one(1)
        await ctx.step("other", lambda: 2, key="same")

    run = AsyncTaskRun(main)
    with pytest.raises(StepKeyError, match="two steps of this run have the key 'same'"):
        await run.finish()
    assert (run.steps, run.executions, len(run.attempts)) == ({"same": 1}, {"same": 1}, 1)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("", "a key has 1 to 512 bytes and no U.0000: '' has 0"),
        ("k" * 10_000, "a key has 1 to 512 bytes and no U.0000: 'k{80}' has 10000"),
        ("é" * 257, "a key has 1 to 512 bytes .* has 514"),
        ("a\x00b", "a key has 1 to 512 bytes and no U.0000"),
        ("\ud800", "is not Unicode text"),
        ("~1/a", "a key can't begin with '~'"),
    ],
)
def test_keys_that_can_not_be(key: str, says: str):
    @task
    def main(ctx: SyncContext) -> None:
        ctx.step("a", lambda: 1, key=key)

    @task
    def checkpoints(ctx: SyncContext) -> None:
        ctx.checkpoint(key, 1)

    for wrong in (main, checkpoints):
        if wrong is checkpoints and key == "~1/a":
            continue  # a checkpoint may be called so
        run = TaskRun(wrong)
        with pytest.raises(StepKeyError, match=says):
            run.finish()
        assert (run.state, run.records, run.executions) == ("failed", [], {})


@pytest.mark.parametrize("name", ["", "~a", "a#2", "a>b"])
def test_names_that_can_not_be(name: str):
    @task
    def main(ctx: SyncContext) -> None:
        ctx.step(name, lambda: 1)

    with pytest.raises(StepKeyError, match="can't be a step's name: not empty, no leading '~', no '#', no '>'"):
        TaskRun(main).finish()


@pytest.mark.parametrize(
    "key", ["a\nb", "\x1b[31mred\x07", "  ", "../..", "%2F?x=1&y#", "日本", "k" * 512, "\u202eabc"]
)
async def test_odd_keys_are_kept_as_they_are(key: str):
    @task
    async def main(ctx: Context) -> int:
        await ctx.checkpoint(key, 1)
        return await ctx.step("a", lambda: 7, key=key)

    run = AsyncTaskRun(main)
    await run.attempt(crash=after(2))
    assert await run.finish() == 7
    assert (run.steps, run.executions) == ({key: 7}, {key: 1})
    assert run.checkpoints == {key: [1, 1]}


async def test_sets_of_mixed_types_come_back():
    mixed = {1, "a", None, 2.5, (1, "x"), frozenset({b"y"})}

    @task
    async def main(ctx: Context) -> bool:
        found: object = await ctx.step("mixed", lambda: mixed)
        return found == mixed

    run = AsyncTaskRun(main)
    await run.attempt(crash=after("mixed"))
    assert await run.finish() is True


async def test_data_that_holds_itself_is_named_where_it_does():
    loop: dict[str, object] = {"items": [1]}
    loop["items"] = [1, {"again": loop}]

    @task
    async def main(ctx: Context, whole: bool) -> object:
        return loop if whole else await ctx.step("a", lambda: loop)

    for whole in (True, False):
        run = AsyncTaskRun(main, {"whole": whole})
        with pytest.raises(NotRecordableError, match=r"^\$\.items\[1\]\.again \(dict\): contains itself"):
            await run.finish()
        assert (run.state, len(run.attempts)) == ("failed", 1)
