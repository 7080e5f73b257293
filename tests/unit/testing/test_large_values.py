"""Values above the limit of a record in `milepost.testing`: as in a cluster with object storage, or without."""

import pytest

from milepost import Context, RecordTooLargeError, SyncContext, task
from milepost.testing import AsyncTaskRun, TaskRun, after

EXECUTED: list[str] = []


def rows() -> list[str]:
    EXECUTED.append("rows")
    return ["é" * 100] * 50


@task
async def load(ctx: Context) -> list[object]:
    state = await ctx.restore("state", [])
    made = await ctx.step("rows", rows)
    await ctx.checkpoint("state", [*state, *made])
    return [len(state), made]


@task
def plain_load(ctx: SyncContext) -> list[object]:
    state = ctx.restore("state", [])
    made = ctx.step("rows", rows)
    ctx.checkpoint("state", [*state, *made])
    return [len(state), made]


@pytest.fixture(autouse=True)
def nothing_executed() -> None:
    EXECUTED.clear()


async def test_without_object_storage_the_biggest_part_and_what_to_do_are_told() -> None:
    run = AsyncTaskRun(load, max_bytes=1000)
    with pytest.raises(RecordTooLargeError, match=r"objectStorage\.bucket") as refused:
        await run.finish()
    assert (refused.value.limit, refused.value.path) == (1000, "$[0]")
    assert run.state == "failed"


async def test_with_it_a_run_goes_on_from_them() -> None:
    run = AsyncTaskRun(load, max_bytes=1000, max_object_bytes=100_000)
    await run.attempt(crash=after("state"))
    assert await run.finish() == [50, ["é" * 100] * 50]
    assert EXECUTED == ["rows"]
    assert run.steps == {"rows": ["é" * 100] * 50}


def test_a_plain_task_does_too() -> None:
    run = TaskRun(plain_load, max_bytes=1000, max_object_bytes=100_000)
    run.attempt(crash=after("state"))
    assert run.finish() == [50, ["é" * 100] * 50]
    assert EXECUTED == ["rows"]


async def test_object_storage_has_a_limit_as_well() -> None:
    run = AsyncTaskRun(load, max_bytes=1000, max_object_bytes=9000)
    with pytest.raises(RecordTooLargeError, match="9000 is the most") as refused:
        await run.finish()
    assert refused.value.limit == 9000
    assert "objectStorage" not in str(refused.value)
