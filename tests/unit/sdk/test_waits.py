"""When an attempt may end to wait: only when every branch of the task does."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from milepost.errors import SettledError
from milepost.sdk.context import Context
from milepost.sdk.retry import Retry
from tests.unit.sdk.attempts import LeftError, Run

LONG = Retry(max_attempts=3, min_seconds=60, max_seconds=600, randomize=False)


async def fetch(ctx: Context, name: str, run: Run) -> object:
    """A step that fails in its first try of the run. (Async: a thread's end is none of the test's clock.)"""

    async def call() -> int:
        if not any(str(t["step"]).rpartition("/")[2] == name for t in run.tries):
            raise TimeoutError("slow")
        return 7

    return await ctx.step(name, call, retry=LONG)


async def in_gather(ctx: Context, run: Run) -> object:
    return await asyncio.gather(*(fetch(ctx, f"s{n}", run) for n in range(3)))


async def in_group(ctx: Context, run: Run) -> object:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(fetch(ctx, f"s{n}", run)) for n in range(3)]
    return [task.result() for task in tasks]


async def in_map(ctx: Context, run: Run) -> object:
    return await ctx.map(lambda n: fetch(ctx, f"s{n}", run), range(3), concurrency=3)


async def in_all_settled(ctx: Context, run: Run) -> object:
    return [one.unwrap() for one in await ctx.all_settled(*(fetch(ctx, f"s{n}", run) for n in range(3)))]


async def in_tasks(ctx: Context, run: Run) -> object:
    tasks = [asyncio.create_task(fetch(ctx, f"s{n}", run)) for n in range(3)]
    done, _ = await asyncio.wait(tasks)
    assert len(done) == 3
    return [await task for task in tasks]


@pytest.mark.parametrize("task", [in_gather, in_group, in_map, in_all_settled, in_tasks])
def test_branches_that_all_wait_leave_together(task: Callable[[Context, Run], Awaitable[object]]):
    run = Run()
    with pytest.raises(BaseException) as caught:  # noqa: PT011  # a group, of a TaskGroup
        run.do(lambda ctx: task(ctx, run))
    assert isinstance(caught.value, LeftError) or caught.group_contains(LeftError)
    (waits,) = run.waits
    assert [w.seconds for w in waits] == [60.0] * 3
    run.now += 60
    assert run.do(lambda ctx: task(ctx, run)) == [7, 7, 7]
    assert len(run.waits) == 1


def busy_future(ctx: Context) -> Awaitable[object]:
    """Something that no task of the loop ends: a socket, say."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ctx._waits._later(30, lambda: future.done() or future.set_result(None))
    return future


async def awaits(future: Awaitable[object]) -> None:
    await future


async def shielded(future: Awaitable[object]) -> None:
    await asyncio.shield(future)


async def in_event(future: Awaitable[object]) -> None:
    event = asyncio.Event()
    asyncio.ensure_future(future).add_done_callback(lambda _: event.set())
    await event.wait()


@pytest.mark.parametrize("work", [awaits, shielded, in_event])
def test_one_branch_at_work_keeps_the_pod(work: Callable[[Awaitable[object]], Awaitable[None]]):
    run = Run()

    async def task(ctx: Context) -> object:
        _, value = await asyncio.gather(work(busy_future(ctx)), fetch(ctx, "s", run))
        return value

    with pytest.raises(LeftError):
        run.do(task)
    ((wait,),) = run.waits
    assert 28 < (wait.seconds or 0) <= 30, "it left when the other branch was done, not before"


def test_a_timeout_around_a_wait_keeps_the_pod():
    run = Run()

    async def task(ctx: Context) -> object:
        async with asyncio.timeout(3600):
            return await fetch(ctx, "s", run)

    assert run.do(task) == 7
    assert not run.waits


def test_a_limit_of_concurrency_is_no_work():
    run = Run()

    async def task(ctx: Context) -> object:
        return await ctx.map(lambda n: fetch(ctx, f"s{n}", run), range(4), concurrency=2)

    for _ in range(2):
        with pytest.raises(BaseException) as caught:  # noqa: PT011
            run.do(task)
        assert caught.group_contains(LeftError)
        run.now += 60
    assert [len(waits) for waits in run.waits] == [2, 2]
    assert run.do(task) == [7, 7, 7, 7]


def test_a_thread_at_work_keeps_the_pod():
    run, gate = Run(), threading.Event()

    async def task(ctx: Context) -> object:
        async def opens() -> int:  # after the other's wait: so nobody left before
            value = await fetch(ctx, "s", run)
            gate.set()
            return int(str(value))

        value, _ = await asyncio.gather(opens(), ctx.step("thread", lambda: gate.wait(20)))
        return value

    assert run.do(task) == 7
    assert not run.waits


def test_a_short_wait_beside_a_long_one_is_waited_for_first():
    run = Run()
    short = Retry(min_seconds=4, randomize=False)

    async def task(ctx: Context) -> object:
        async def quick() -> str:
            if not any(t["step"] == "~1/quick" for t in run.tries):
                raise TimeoutError
            return "done"

        return await asyncio.gather(ctx.step("quick", quick, retry=short), fetch(ctx, "s", run))

    with pytest.raises(LeftError):
        run.do(task)
    assert run.keys[-1] == "~1/quick", "recorded before the attempt ended"
    ((wait,),) = run.waits
    assert 55 < (wait.seconds or 0) <= 56


def test_what_refuses_the_end_of_the_attempt_reaches_every_branch():
    run = Run(refusal=SettledError("settled", "succeeded"))

    async def task(ctx: Context) -> object:
        return await ctx.all_settled(fetch(ctx, "a", run), fetch(ctx, "b", run))

    ends = run.do(task)
    assert [type(one.error) for one in ends] == [SettledError] * 2  # type: ignore[attr-defined]


def test_a_branch_that_is_cancelled_does_not_leave():
    run, cleaned = Run(), []

    async def task(ctx: Context) -> object:
        async def branch() -> None:
            try:
                await busy_future(ctx)
            finally:
                cleaned.append(await fetch(ctx, "undo", run))

        spawned = asyncio.ensure_future(branch())
        await asyncio.sleep(0)
        spawned.cancel()
        return await ctx.all_settled(asyncio.wait([spawned]))

    run.do(task)
    assert cleaned == [7]
    assert not run.waits
