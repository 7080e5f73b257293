"""`ctx.stream`: what a task tells while it runs."""

import pytest

from milepost import Context, ContextUseError, NotRecordableError, StreamFullError, SyncContext, task
from milepost.testing import AsyncTaskRun, TaskRun, after
from milepost.testing import memory as memory_module
from tests.unit.sdk.conftest import Pod


@task
async def talk(ctx: Context, words: list[str]) -> int:
    for word in words:
        last = await ctx.stream({"word": word})
    await ctx.step("said", lambda: len(words))
    return last


@task
def talk_plainly(ctx: SyncContext, words: list[str]) -> int:
    for word in words:
        last = ctx.stream(word)
    ctx.step("said", lambda: len(words))
    return last


async def test_an_attempt_that_goes_on_tells_again_what_it_does_again():
    run = AsyncTaskRun(talk, ["a", "b"])
    await run.attempt(crash=after("said"))
    assert await run.finish() == 4
    assert run.streamed == [{"word": "a"}, {"word": "b"}] * 2
    assert [record.key for record in run.records] == ["said"]


def test_plain_tasks_tell_too():
    run = TaskRun(talk_plainly, ["a", "b"])
    assert run.finish() == 2
    assert run.streamed == ["a", "b"]


async def test_what_can_not_be_told(monkeypatch: pytest.MonkeyPatch):
    kept: list[Context] = []

    @task
    async def main(ctx: Context) -> None:
        kept.append(ctx)
        with pytest.raises(NotRecordableError, match=r"\$\.a \(object\)"):
            await ctx.stream({"a": object()})
        await ctx.stream("x" * 1000)

    monkeypatch.setattr(memory_module, "MAX_STREAM_BYTES", 500)
    run = AsyncTaskRun(main)
    with pytest.raises(StreamFullError, match="a run's stream has at most 500 bytes"):
        await run.finish()
    assert (run.state, len(run.attempts), run.streamed) == ("failed", 1, [])
    with pytest.raises(ContextUseError, match=r"ctx\.stream\(\) can't be used after its task ended"):
        await kept[0].stream(1)


async def test_a_full_stream_fails_the_run_in_a_pod(pod: Pod):
    pod.api.max_stream_bytes = 20
    pod.source("from milepost import task\n@task\ndef main(ctx):\n    while True:\n        ctx.stream('token')\n")
    assert await pod.run() != 0
    assert [chunk["value"] for chunk in pod.api.chunks] == ['"token"'] * 2
    failure = pod.api.settlements[0]["failure"]
    assert (failure["type"], failure["retryable"]) == ("StreamFullError", False)
