"""A context used as it can't be: not awaited, in another thread, run or process, or after its task ended."""

import asyncio
import inspect
import threading
from pathlib import Path

import pytest

from milepost import (
    Context,
    ContextUseError,
    NoRunError,
    NotAwaitedError,
    NotRecordableError,
    SyncContext,
    current,
    step,
    task,
)
from milepost.testing import AsyncTaskRun, TaskRun, after

ME = __file__


@step
async def pay(amount: int) -> int:
    return amount


def line_of(fn: object, text: str) -> str:
    """Give `file:line` of the line of a function that holds a text."""
    lines, first = inspect.getsourcelines(getattr(fn, "fn", fn))  # type: ignore[arg-type]
    return f"{ME}:{first + next(n for n, line in enumerate(lines) if text in line)}"


@task
async def dropped(ctx: Context) -> str:
    ctx.step("pay", pay.__wrapped__, 5)  # HERE
    await ctx.step("ship", asyncio.sleep, 0)
    return "paid"


@task
async def dropped_step() -> str:
    pay(5)  # HERE
    return "paid"


@task
async def kept_and_forgotten(ctx: Context) -> str:
    later = ctx.step("pay", pay.__wrapped__, 5)  # HERE
    return f"paid {later is None}"


@task
async def asked_for_truth(ctx: Context) -> str:
    if ctx.restore("done"):  # HERE
        return "done"
    return "not done"


@task
async def dropped_checkpoint(ctx: Context) -> None:
    ctx.checkpoint("state", 1)  # HERE


@task
async def given_back(ctx: Context) -> object:
    return ctx.step("pay", pay.__wrapped__, 5)  # HERE


@pytest.mark.parametrize(
    ("wrong", "call"),
    [
        (dropped, "ctx.step('pay')"), (dropped_step, "ctx.step('pay')"), (kept_and_forgotten, "ctx.step('pay')"),
        (given_back, "ctx.step('pay')"),
        (asked_for_truth, "ctx.restore('done')"), (dropped_checkpoint, "ctx.checkpoint('state')"),
    ],
)  # fmt: skip
async def test_a_call_that_nobody_awaits_fails_the_run_and_is_named(wrong, call):
    run = AsyncTaskRun(wrong)
    with pytest.raises(NotAwaitedError) as caught:
        await run.finish()
    assert (caught.value.call, caught.value.place.partition(" in ")[0]) == (call, line_of(wrong, "# HERE"))
    assert "write `await` before it" in str(caught.value)
    assert (run.state, len(run.attempts), run.records) == ("failed", 1, [])


async def test_what_follows_from_a_missing_await_is_told_with_it():
    @task
    async def main(ctx: Context) -> str:
        return ctx.step("pay", pay.__wrapped__, 5).upper()  # type: ignore[no-any-return, attr-defined]

    run = AsyncTaskRun(main)
    with pytest.raises(NotAwaitedError) as caught:
        await run.finish()
    assert isinstance(caught.value.__cause__, AttributeError)


async def test_calls_that_end_before_they_begin_were_not_forgotten():
    @task
    async def main(ctx: Context) -> list[object]:
        ctx.step("closed", pay.__wrapped__, 1).close()
        cancelled = asyncio.create_task(ctx.step("cancelled", pay.__wrapped__, 2))
        cancelled.cancel()
        late = ctx.step("late", pay.__wrapped__, 3)
        return [*await asyncio.gather(cancelled, return_exceptions=True), await late][1:]

    assert await AsyncTaskRun(main).finish() == [3]


async def test_coroutines_of_others_are_pythons_own_to_warn_of():
    @task
    async def main() -> int:
        asyncio.sleep(0)
        return await pay(3)

    with pytest.warns(RuntimeWarning, match="coroutine 'sleep' was never awaited"):
        assert await AsyncTaskRun(main).finish() == 3


async def test_a_context_after_its_task():
    kept: list[Context] = []

    @task
    async def main(ctx: Context) -> None:
        if kept:
            await kept[0].step("a", pay.__wrapped__, 1)
        kept.append(ctx)

    run = AsyncTaskRun(main)
    await run.finish()
    for call in (kept[0].step("a", pay.__wrapped__, 1), kept[0].checkpoint("c", 1), kept[0].restore("c")):
        with pytest.raises(ContextUseError, match=r"can't be used after its task ended\. To do: await all"):
            await call
    with pytest.raises(ContextUseError, match=r"ctx.step\('a'\) can't be used after its task ended"):
        await AsyncTaskRun(main).finish()
    assert run.records == []


def test_a_plain_context_after_its_task():
    kept: list[SyncContext] = []

    @task
    def main(ctx: SyncContext) -> None:
        kept.append(ctx)

    TaskRun(main).finish()
    with pytest.raises(ContextUseError, match="after its task ended"):
        kept[0].step("a", lambda: 1)


async def test_a_context_in_another_run():
    async with asyncio.timeout(20):
        given: asyncio.Future[Context] = asyncio.get_running_loop().create_future()
        over = asyncio.Event()

        @task(id="giver")
        async def giver(ctx: Context) -> None:
            given.set_result(ctx)
            await over.wait()

        @task(id="taker")
        async def taker() -> None:
            try:
                await (await given).step("a", pay.__wrapped__, 1)
            finally:
                over.set()

        ends = await asyncio.gather(
            *(AsyncTaskRun(one, max_attempts=1).finish() for one in (giver, taker)), return_exceptions=True
        )
    assert ends[0] is None
    assert isinstance(ends[1], ContextUseError)
    assert "of task 'taker': it is the context of run" in str(ends[1])


async def test_an_async_context_in_a_thread_with_a_loop_of_its_own():
    @task
    async def main(ctx: Context) -> None:
        await asyncio.to_thread(lambda: asyncio.run(ctx.checkpoint("a", 1)))

    with pytest.raises(ContextUseError, match=r"in thread '.*', which is not its own, or in another event loop"):
        await AsyncTaskRun(main).finish()


async def test_a_thread_passes_calls_on_to_the_loop():
    @task
    async def main() -> int:
        loop = asyncio.get_running_loop()
        return await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(pay(4), loop).result())

    assert await AsyncTaskRun(main).finish() == 4


def test_a_plain_context_in_a_thread():
    found: list[Exception] = []

    @task
    def main(ctx: SyncContext) -> int:
        def work() -> None:
            try:
                ctx.step("a", lambda: 1)
            except ContextUseError as error:
                found.append(error)

        thread = threading.Thread(target=work, name="worker-1")
        thread.start()
        thread.join()
        return ctx.step("b", lambda: 2)

    run = TaskRun(main)
    assert run.finish() == 2
    assert list(run.steps) == ["b"]
    assert "ctx.step('a') can't be used in thread 'worker-1', which is not its own. To do: let" in str(found[0])


async def test_current_in_a_bare_thread_says_so():
    @task
    async def main() -> str:
        return await asyncio.get_running_loop().run_in_executor(None, lambda: current().run.id)

    with pytest.raises(NoRunError, match="there is no async task here"):
        await AsyncTaskRun(main).finish()


async def test_a_task_that_swallows_its_cancellation_is_cancelled_all_the_same():
    @task
    async def main(ctx: Context) -> str:
        try:
            await ctx.step("one", pay.__wrapped__, 1)
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await ctx.checkpoint("cleaned", True)
        return "done"

    run = AsyncTaskRun(main)
    attempt = await run.attempt(cancel=after("one"))
    assert (attempt.end, run.state, run.result, run.checkpoints) == (
        "cancelled",
        "cancelled",
        None,
        {"cleaned": [True]},
    )


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (lambda: (n for n in "ab"), r"a generator can't be recorded: make a list"),
        (Path(ME).open, r"a _io.TextIOWrapper can't be recorded: record what it holds"),
        (lambda: map(str, [1]), r"a map can't be recorded: make a list"),
    ],
)
def test_results_and_values_that_are_no_data(value, hint):
    @task
    def as_result() -> object:
        return kept

    @task
    def as_value(ctx: SyncContext) -> object:
        return ctx.step("a", lambda: {"items": [kept]})

    kept = value()
    try:
        for wrong, place in ((as_result, r"^\$ "), (as_value, r"^\$.items\[0\] ")):
            run = TaskRun(wrong)
            with pytest.raises(NotRecordableError, match=f"{place}.*{hint}"):
                run.finish()
            assert (run.state, len(run.attempts), run.records) == ("failed", 1, [])
    finally:
        getattr(kept, "close", lambda: None)()


def test_a_generator_is_no_task_and_no_step():
    def produce():
        yield 1

    async def produce_later():
        yield 1

    for one in (produce, produce_later):
        with pytest.raises(TypeError, match="is a generator"):
            task(one)
        with pytest.raises(TypeError, match="is a generator, which can't be recorded: let the step return a list"):
            step(one)
