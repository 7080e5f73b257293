"""What runs around a task: once or in each attempt, in which order, and what an error of it does."""

import asyncio
from textwrap import dedent

import pytest

from milepost import task
from milepost.sdk.run import RunInfo
from milepost.wire.local import EXIT_FAILED
from tests.unit.sdk.conftest import Pod
from tests.unit.sdk.test_runner import HEAD

AROUND = """
    class Busy(Exception):
        status_code = 503
        headers = {"Retry-After": "9"}

    async def timed(ctx, call):
        note("in", ctx.run.attempt)
        try:
            return await call()
        finally:
            note("out")

    @task(middleware=[timed])
    async def main(ctx):
        note("body")
        await ctx.step("part", lambda: note("part"))
        if ctx.run.attempt == 1:
            raise Busy("try later")
        return "done"

    @main.on_start
    async def opened(ctx):
        note("start")

    @main.on_resume
    def again(ctx):
        note("resume")

    @main.on_success
    async def told(ctx, result):
        note("success", result)

    @main.on_failure
    async def failed(ctx, error):
        note("failure", error)
        await ctx.step("tell", lambda: None)
"""


def plain(text: str) -> str:
    return text.replace("async ", "").replace("await ", "").replace("main(ctx)", "main(ctx: SyncContext)")


@pytest.mark.parametrize("form", ["async", "plain"])
async def test_hooks_and_middleware_over_two_attempts(pod: Pod, form: str):
    text = dedent(AROUND)
    pod.source(HEAD + (plain(text) if form == "plain" else text))
    assert await pod.run() == EXIT_FAILED
    assert pod.lines() == ["in 1", "start", "body", "part", "out"]
    failure = pod.api.settlements[0]["failure"]
    assert (failure["retryable"], failure["retry_after_seconds"], failure["kind"]) == (True, 9.0, "user")
    pod.api.next_attempt()
    pod.api.start["attempts_counted"] = 1
    assert await pod.run() == 0
    assert pod.lines()[5:] == ["in 2", "resume", "body", "success done", "out"]
    assert [r.key for r in pod.api.records] == ["on_start/opened", "part", "on_success/told"]


@pytest.mark.parametrize("form", ["async", "plain"])
async def test_the_last_failure_is_told_once(pod: Pod, form: str):
    text = dedent(AROUND).replace("ctx.run.attempt == 1", "True")
    pod.source(HEAD + (plain(text) if form == "plain" else text))
    assert await pod.run() == EXIT_FAILED
    pod.api.next_attempt()
    pod.api.start["attempts_counted"] = 2  # of 3: this is the last one
    assert await pod.run() == EXIT_FAILED
    assert [line for line in pod.lines() if line.startswith("fail")] == ["failure try later"]


async def test_a_permanent_error_is_the_last_in_any_attempt(pod: Pod):
    pod.source(
        HEAD
        + dedent("""
        class Gone(Exception):
            status_code = 404

        @task
        async def main(ctx):
            raise Gone("no such order")

        @main.on_failure
        def first(ctx, error):
            note("first", error)
            raise ValueError("the hook itself")

        @main.on_failure
        def second(ctx, error):
            note("second", type(error).__name__)
    """)
    )
    assert await pod.run() == EXIT_FAILED
    assert pod.lines() == ["first no such order", "second Gone"]
    failure = pod.api.settlements[0]["failure"]
    assert (failure["type"], failure["retryable"]) == ("Gone", False)
    assert "the failure hook first raised itself" in pod.log.read_text()


@pytest.mark.parametrize(
    ("body", "retryable", "after"),
    [
        ("return False", False, None),
        ("return 42", True, 42.0),
        ("return None", None, None),
        ("return {}['broken']", None, None),
    ],
)
async def test_the_tasks_own_function_decides_whether_another_attempt_helps(
    pod: Pod, body: str, retryable: object, after: object
):
    pod.source(
        HEAD
        + dedent(f"""
        def decide(error):
            {body}

        @task(retry_when=decide)
        def main():
            raise ValueError("no")
    """)
    )
    assert await pod.run() == EXIT_FAILED
    failure = pod.api.settlements[0]["failure"]
    assert (failure["type"], failure["retryable"], failure.get("retry_after_seconds")) == (
        "ValueError", retryable, after,
    )  # fmt: skip


async def test_what_a_start_hook_raises_fails_the_attempt(pod: Pod):
    pod.source(
        HEAD
        + dedent("""
        @task
        async def main(ctx):
            note("body")

        @main.on_start
        async def opened(ctx):
            raise LookupError("no licence")
    """)
    )
    assert await pod.run() == EXIT_FAILED
    assert pod.lines() == []
    assert pod.api.settlements[0]["failure"]["type"] == "LookupError"


async def test_cancelling_raises_through_middleware_with_time_to_clean_up(pod: Pod):
    pod.source(
        HEAD
        + dedent("""
        @task
        async def main(ctx):
            try:
                await ctx.step("ready", lambda: None)
                await asyncio.sleep(30)
            finally:
                await ctx.checkpoint("cleaned", True)

        @main.middleware
        async def around(ctx, call):
            try:
                return await call()
            except asyncio.CancelledError:
                note("seen")
                raise

        @main.on_failure
        def failed(ctx, error):
            note("failure")
    """)
    )
    await pod.start_sidecar()
    runner = await pod.start_runner()
    await pod.api.wait_until(lambda: "ready" in pod.api.values())
    pod.api.cancel = True
    assert await runner.wait() == EXIT_FAILED
    assert pod.lines() == ["seen"]
    assert pod.api.values("checkpoint") == {"cleaned": True}
    assert pod.api.settlements[0]["failure"]["kind"] == "cancelled"


@pytest.mark.parametrize("form", ["async", "plain"])
async def test_cancelling_interrupts_a_pause_between_two_tries(pod: Pod, form: str):
    text = dedent("""
        from milepost import Retry

        def fail():
            raise TimeoutError("slow")

        @task
        async def main(ctx):
            try:
                await ctx.step("fetch", fail, retry=Retry(min_seconds=60, hold_seconds=60))
            except asyncio.CancelledError:
                note("cancelled")
                await ctx.checkpoint("cleaned", True)
                raise
    """)
    pod.source(HEAD + (plain(text) if form == "plain" else text))
    await pod.start_sidecar()
    runner = await pod.start_runner()
    await pod.api.wait_until(lambda: "~retry/fetch" in pod.api.values("checkpoint"))
    pod.api.cancel = True
    async with asyncio.timeout(10):
        assert await runner.wait() == EXIT_FAILED
    assert pod.lines() == ["cancelled"]
    assert pod.api.values("checkpoint")["cleaned"] is True
    assert pod.api.settlements[0]["failure"]["kind"] == "cancelled"


async def test_a_long_wait_settles_a_suspension_and_exits_without_unwinding(pod: Pod):
    pod.source(
        HEAD
        + dedent("""
        from milepost import Retry

        def fail():
            raise TimeoutError("slow")

        @task
        async def main(ctx):
            try:
                print("printed", end="")
                await asyncio.gather(*(ctx.step("fetch", fail, retry=Retry(min_seconds=60)) for _ in range(2)))
            finally:
                note("unwound")
    """)
    )
    assert await pod.run() == 0
    assert pod.lines() == []
    (settlement,) = pod.api.settlements
    assert settlement["outcome"] == "suspended"
    assert [(w["kind"], w["key"]) for w in settlement["waits"]] == [
        ("retry", "~retry/~1/fetch"), ("retry", "~retry/~2/fetch"),
    ]  # fmt: skip
    assert "printed" in pod.log.read_text()
    assert "waits without a pod: step `~1/fetch` failed in 1 of 3 tries" in pod.log.read_text()


def test_an_async_hook_of_a_plain_task_is_refused_where_it_is_written():
    @task
    def main() -> None: ...

    with pytest.raises(TypeError, match="'hook' is async: only an async task can have it around"):

        @main.on_start
        async def hook(_ctx: object) -> None: ...


def test_facts_of_a_run_for_traces():
    def facts(run_id: str, attempt: int = 1) -> RunInfo:
        return RunInfo(run_id, "r", "n", "t", 1, attempt, "first", 3, (), "")

    one = facts("0b0f3e52-96c2-4e0e-8f6e-0d6c1b2a3c4d")
    assert one.trace_id == "0b0f3e5296c24e0e8f6e0d6c1b2a3c4d"
    version, trace, span, flags = one.traceparent.split("-")
    assert (version, trace, len(span), flags) == ("00", one.trace_id, 16, "01")
    again = facts(one.id, 2)
    assert again.trace_id == one.trace_id
    assert again.traceparent != one.traceparent
    assert len(facts("local").trace_id) == 32
