"""What a run may record, in `milepost.testing`: as its Task's `spec.records` would say."""

import pytest

from milepost import Context, RunLimitError, SyncContext, task
from milepost.testing import AsyncTaskRun, TaskRun


@task
async def pages(ctx: Context, count: int) -> int:
    await ctx.step("begin", lambda: 0)
    for n in range(count):
        await ctx.step("page", lambda n=n: f"{n}" * 100)
    return count


@task
def plain_pages(ctx: SyncContext, count: int) -> int:
    for n in range(count):
        ctx.step("page", lambda n=n: f"{n}" * 100)
        ctx.checkpoint("done", n)
    return count


async def test_a_run_within_its_limits_is_not_touched():
    assert await AsyncTaskRun(pages, 3, max_records=4, max_records_bytes=310).finish() == 3


@pytest.mark.parametrize(
    ("limits", "limit"),
    [({"max_records": 3}, "records.maxCount"), ({"max_records_bytes": 250}, "records.maxBytes")],
)
async def test_one_record_too_many_fails_the_run_with_what_is_biggest(limits: dict[str, int], limit: str):
    run = AsyncTaskRun(pages, 9, **limits)
    with pytest.raises(RunLimitError, match=r"most of them are of 'page'") as caught:
        await run.finish()
    assert (caught.value.limit, caught.value.most, caught.value.key) == (limit, next(iter(limits.values())), "page")
    assert (run.state, len(run.attempts), len(run.records)) == ("failed", 1, 3)


def test_a_plain_task_too():
    run = TaskRun(plain_pages, 9, max_records=3)
    with pytest.raises(RunLimitError, match="may have 3 records"):
        run.finish()
    assert [record.key for record in run.records] == ["page", "done", "page#2"]
