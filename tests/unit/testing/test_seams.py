"""Where retries, hooks, failures, changed code and branches meet."""

import asyncio

import pytest

from milepost import Context, FatalError, Retry, ValueMismatchError, step, task
from milepost.client.errors import BadRequestError, BusyError
from milepost.sdk.classify import Verdict, classify
from milepost.testing import AsyncTaskRun, after


async def test_hook_of_failure_records_nothing_of_the_failure_that_ended_the_attempt():
    @task
    async def main(ctx: Context) -> None:
        await ctx.step("charge", fail)

    @main.on_failure
    async def tell(ctx: Context, _: Exception) -> None:
        await ctx.step("charge", lambda: "told")  # a name of the task's: it has a scope of its own

    def fail() -> None:
        raise FatalError("no")

    run = AsyncTaskRun(main)
    with pytest.raises(FatalError):
        await run.finish()
    assert [record.key for record in run.records] == ["on_failure/1>charge"]


async def test_hook_of_resume_keeps_the_places_of_the_steps():
    bodies: list[str] = []

    @task
    async def main(ctx: Context) -> int:
        await ctx.step("first", lambda: bodies.append("first"))
        return await ctx.step("second", lambda: len(bodies))

    @main.on_resume
    async def again(ctx: Context) -> None:
        await ctx.now()

    run = AsyncTaskRun(main)
    await run.attempt(crash=after("first"))
    assert (await run.finish(), bodies) == (1, ["first"])


async def test_caught_misfit_is_the_same_in_the_next_attempt():
    @step
    async def count() -> int:
        return "many"  # type: ignore[return-value]

    @task
    async def main(ctx: Context) -> str:
        try:
            await count()
        except ValueMismatchError:
            await ctx.step("note", lambda: None)
        return await ctx.step("end", lambda: "went on")

    run = AsyncTaskRun(main)
    await run.attempt(crash=after("note"))
    assert await run.finish() == "went on"


async def test_function_of_retries_does_not_undo_a_fatal_error():
    told: list[str] = []

    @task(retry_when=lambda _: True)
    async def main(_: Context) -> None:
        raise FatalError("for good")

    @main.on_failure
    def tell(_: Context, error: Exception) -> None:
        told.append(str(error))

    with pytest.raises(FatalError):
        await AsyncTaskRun(main).finish()
    assert told == ["for good"]


async def test_hook_of_failure_runs_with_the_last_attempt():
    told: list[int] = []

    @task
    async def main(_: Context) -> None:
        raise OSError("again")

    @main.on_failure
    def tell(ctx: Context, _: Exception) -> None:
        told.append(ctx.run.attempt)

    with pytest.raises(OSError, match="again"):
        await AsyncTaskRun(main).finish()
    assert told == [3]


async def test_retried_step_ends_what_its_last_try_left_at_work():
    log: list[str] = []

    @task
    async def main(ctx: Context) -> int:
        return await ctx.step("both", both, ctx, retry=Retry(min_seconds=0, max_seconds=0))

    async def both(ctx: Context) -> int:
        given = await asyncio.gather(ctx.step("fails", fails), ctx.step("slow", slow))
        return sum(given)

    async def fails() -> int:
        log.append("fails")
        if log.count("fails") == 1:
            raise ConnectionError
        return 1

    async def slow() -> int:
        log.append("slow")
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.05)
        except TimeoutError:
            return 2
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        raise AssertionError

    assert await AsyncTaskRun(main).finish() == 3
    assert log == ["fails", "slow", "cancelled", "fails", "slow"]


def test_answers_of_our_own_api_are_judged_as_any_other():
    assert classify(BadRequestError("POST /v1/runs", 422, "invalid", "no")) == Verdict(retryable=False)
    assert classify(BusyError("POST /v1/runs", 429, "queue-full", "full", retry_after=7)) == Verdict(True, 7.0)
