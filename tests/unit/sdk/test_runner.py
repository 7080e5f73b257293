"""The true runner and the true sidecar, end to end against the pod protocol in memory."""

import asyncio
import signal
from textwrap import dedent

import pytest

from milepost.wire.local import EXIT_CONFIG, EXIT_FAILED, EXIT_FENCED
from tests.unit.sdk.conftest import Pod

HEAD = dedent("""
    import asyncio, os
    from milepost import Context, SyncContext, FatalError, MISSING, current, step, task

    def note(*words):
        with open("noted", "a") as f:
            f.write(" ".join(map(str, words)) + "\\n")
""")


async def test_a_result_is_settled_and_the_runner_exits_0(pod: Pod):
    pod.api.start["input"] = '{"top": 3}'
    pod.source(
        HEAD
        + dedent("""
        @task
        async def main(ctx, top=1, low=0):
            ctx.progress(0.5, "half")
            doubled = await ctx.step("double", lambda: {"n": top * 2})
            return {"n": doubled["n"], "run": ctx.run.id, "same": current() is ctx}
    """)
    )
    assert await pod.run() == 0
    assert pod.api.settlements[0]["result"] == '{"n":6,"run":"run-1","same":true}'
    assert pod.api.values() == {"double": {"n": 6}}


async def test_a_crash_resumes_without_repeating_steps(pod: Pod):
    pod.source(
        HEAD
        + dedent("""
        @step
        async def fetch(n):
            note("fetch", n)
            return [n]

        @step(key=lambda n: f"squared/{n}")
        def square(n):
            note("square", n)
            return n * n

        @task(id="crashing")
        async def main(ctx: Context):
            a = await fetch(1)
            b = await fetch(2)
            both = await asyncio.gather(square(3), square(4))
            last = await ctx.restore("state", {"n": 0})
            seq = await ctx.checkpoint("state", {"n": last["n"] + 1})
            if ctx.run.attempt == 1:
                os._exit(9)
            return [a, b, both, last, ctx.run.cause]
    """)
    )
    assert await pod.run() == EXIT_FAILED
    failure = pod.api.settlements[0]["failure"]
    assert (failure["kind"], pod.api.settlements[0]["evidence"]["exit_code"]) == ("crash", 9)
    pod.api.next_attempt()
    assert await pod.run() == 0
    assert pod.api.settlements[1]["result"] == '[[1],[2],[9,16],{"n":1},"retry"]'
    assert sorted(pod.words()) == sorted(["fetch", "1", "fetch", "2", "square", "3", "square", "4"])
    assert pod.api.values() == {"fetch": [1], "fetch#2": [2], "squared/3": 9, "squared/4": 16}


async def test_the_sidecar_is_killed_and_restarted_in_the_middle(pod: Pod):
    pod.source(
        HEAD
        + dedent("""
        @task
        async def main(ctx):
            for n in range(400):
                await ctx.step(f"s{n}", lambda n=n: n)
            return "done"
    """)
    )
    await pod.start_sidecar()
    runner = await pod.start_runner()
    for count in (50, 200):
        await pod.api.wait_until(lambda count=count: len(pod.api.records) > count)
        pod.sidecar.send_signal(signal.SIGKILL)
        await pod.sidecar.wait()
        await pod.start_sidecar()
    async with asyncio.timeout(20):
        assert await runner.wait() == 0
    assert [r.key for r in pod.api.records] == [f"s{n}" for n in range(400)]
    assert len(pod.api.settlements) == 1


@pytest.mark.parametrize("last", ["await ctx.step('b', lambda: 2)", "None"])
async def test_a_write_waits_for_a_restarted_sidecar_to_recover_its_attempt(pod: Pod, last: str):
    pod.source(
        HEAD
        + dedent(f"""
        @task
        async def main(ctx):
            await ctx.step("a", lambda: 1)
            while not os.path.exists("go"):
                await asyncio.sleep(0.01)
            {last}
            return "done"
    """)
    )
    await pod.start_sidecar()
    runner = await pod.start_runner()
    await pod.api.wait_until(lambda: len(pod.api.records) == 1)
    pod.sidecar.send_signal(signal.SIGKILL)
    await pod.sidecar.wait()
    pod.api.down = True
    await pod.start_sidecar()
    seen = len(pod.api.seen)
    await pod.api.wait_until(lambda: len(pod.api.seen) > seen)  # it listens, and has no answer to its start
    (pod.home / "go").touch()
    await asyncio.sleep(0.3)  # the task writes
    pod.api.down = False
    async with asyncio.timeout(20):
        assert await runner.wait() == 0
    assert [s["outcome"] for s in pod.api.settlements] == ["succeeded"]


async def test_an_outage_of_the_api_burns_nothing(pod: Pod):
    pod.source(
        HEAD
        + dedent("""
        @task
        async def main(ctx):
            for n in range(20):
                await ctx.step(f"s{n}", lambda n=n: n)
            return "done"
    """)
    )
    pod.api.down = True
    await pod.start_sidecar()
    runner = await pod.start_runner()
    await pod.api.wait_until(lambda: len(pod.api.seen) >= 3)
    pod.api.faults["/records"].extend(["drop-after", 503, "drop-before", "drop-after", 502])
    pod.api.faults["/settle"].extend(["drop-after", 503])
    pod.api.down = False
    async with asyncio.timeout(20):
        assert await runner.wait() == 0
    assert [r.key for r in pod.api.records] == [f"s{n}" for n in range(20)]
    assert len(pod.api.settlements) == 1


async def test_cancel_raises_at_the_next_await(pod: Pod):
    pod.source(
        HEAD
        + dedent("""
        @task
        async def main(ctx):
            await ctx.step("one", lambda: 1)
            try:
                await asyncio.sleep(60)
            finally:
                await ctx.checkpoint("cleaned", True)
    """)
    )
    assert await pod.cancelled() == EXIT_FAILED
    assert pod.api.settlements[0]["failure"]["kind"] == "cancelled"
    assert pod.api.values("checkpoint") == {"cleaned": True}


async def test_a_task_that_ignores_cancel_is_killed_after_its_grace(pod: Pod):
    pod.source(
        HEAD
        + dedent("""
        import time
        @task
        def main(ctx: SyncContext):
            ctx.step("one", lambda: 1)
            time.sleep(60)
    """)
    )
    assert await pod.cancelled() == EXIT_FAILED
    settled = pod.api.settlements[0]
    assert settled["failure"]["kind"] == "cancelled"
    assert settled["evidence"]["signal"] == signal.SIGKILL


async def test_a_fenced_attempt_is_killed_at_once(pod: Pod):
    pod.source(
        HEAD
        + dedent("""
        @task
        async def main(ctx):
            await ctx.step("one", lambda: 1)
            await asyncio.sleep(60)
    """)
    )
    await pod.start_sidecar()
    runner = await pod.start_runner()
    await pod.api.wait_until(lambda: bool(pod.api.records))
    pod.api.next_attempt()
    async with asyncio.timeout(20):
        assert await runner.wait() == EXIT_FENCED
    assert pod.api.settlements == []


async def test_a_closed_pod_does_not_start(pod: Pod):
    pod.api.closed = True
    assert await pod.run() == EXIT_FENCED


async def test_sigterm_ends_the_task_without_settling(pod: Pod):
    pod.source(
        HEAD
        + dedent("""
        @task
        async def main(ctx):
            await ctx.step("one", lambda: 1)
            await asyncio.sleep(60)
    """)
    )
    await pod.start_sidecar()
    runner = await pod.start_runner()
    await pod.api.wait_until(lambda: bool(pod.api.records))
    runner.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert await runner.wait() == 143
    assert pod.api.settlements == []


async def test_a_plain_task_has_the_same_in_blocking_form(pod: Pod):
    pod.source(
        HEAD
        + dedent("""
        @step
        def add(a, b):
            note("add", a, b)
            return a + b

        @task
        def main(ctx: SyncContext, input):
            ctx.progress(0.1)
            first = add(1, 2)
            second = ctx.step("add", add.__wrapped__, first, 4)
            state = ctx.restore("s")
            ctx.checkpoint("s", [second])
            if state is MISSING:
                raise ValueError("try again\\0")
            return {"state": state, "input": input}
    """)
    )
    assert await pod.run() == EXIT_FAILED
    failure = pod.api.settlements[0]["failure"]
    assert (failure["kind"], failure["type"], failure["message"]) == ("user", "ValueError", "try again\\x00")
    assert failure["retryable"] is None
    assert '<task source>", line' in failure["traceback"]
    assert 'raise ValueError("try again' in failure["traceback"]
    assert "milepost/runner" not in failure["traceback"]
    pod.api.next_attempt()
    assert await pod.run() == 0
    assert pod.api.settlements[1]["result"] == '{"state":[7],"input":null}'
    assert pod.words() == ["add", "1", "2", "add", "3", "4"]


async def test_what_cannot_be_kept_fails_with_its_place(pod: Pod):
    pod.api.start["max_record_bytes"] = 1000
    pod.source(
        HEAD
        + dedent("""
        from milepost import NotRecordableError, RecordTooLargeError
        @task
        async def main(ctx):
            await ctx.checkpoint("good", 1)
            try:
                await ctx.checkpoint("good", {"items": [1, {"when": object()}]})
            except NotRecordableError as error:
                assert (error.path, error.type) == ("$.items[1].when", "object"), error
            try:
                await ctx.step("big", lambda: {"small": 1, "big": ["x" * 2000]})
            except RecordTooLargeError as error:
                assert (error.path, error.limit) == ("$.big[0]", 1000), error
            return {1, object()}
    """)
    )
    assert await pod.run() == EXIT_FAILED
    failure = pod.api.settlements[0]["failure"]
    assert (failure["type"], failure["retryable"]) == ("NotRecordableError", False)
    assert "(object)" in failure["message"]
    assert pod.api.values("checkpoint") == {"good": 1}


async def test_a_task_that_cannot_be_loaded_is_a_config_failure(pod: Pod):
    for source, entrypoint, says in (
        ("import nothing_here", None, "can't be imported: ModuleNotFoundError"),
        ("x = 1", None, "has no task"),
        (None, "json:dumps", "is no task"),
        (None, "json", "must be 'package.module:function'"),
    ):
        pod.api.start.update(source=source, entrypoint=entrypoint)
        assert await pod.run() == EXIT_CONFIG
        failure = pod.api.settlements[-1]["failure"]
        assert (failure["kind"], says in failure["message"]) == ("config", True), failure
        pod.api.next_attempt()


async def test_an_input_that_does_not_fit_fails_the_run(pod: Pod):
    pod.api.start["input"] = '{"topp": 1}'
    pod.source(HEAD + "\n@task\nasync def main(ctx, top=1):\n    return top\n")
    assert await pod.run() == EXIT_FAILED
    failure = pod.api.settlements[0]["failure"]
    assert (failure["kind"], failure["retryable"]) == ("fatal", False)
    assert "does not fit main(ctx, top=1): got an unexpected keyword argument 'topp'" in failure["message"]


async def test_branches_resume_one_by_one(pod: Pod):
    pod.source(
        HEAD
        + dedent("""
        @task
        async def main(ctx):
            async def branch(n):
                first = await ctx.step("a", lambda: note("a", n) or n)
                if ctx.run.attempt == 1 and n == 1:
                    raise RuntimeError
                await asyncio.sleep(0.01 * (3 - n))
                return [first, await ctx.step("b", lambda: note("b", n) or n * 10)]

            async def outer():
                return await ctx.step("inner", lambda: note("inner") or 7)

            done = await asyncio.gather(*(branch(n) for n in range(3)), return_exceptions=True)
            nested = await ctx.step("outer", outer)
            if ctx.run.attempt == 1:
                raise RuntimeError
            return [done, nested]
    """)
    )
    await pod.run()
    pod.api.next_attempt()
    assert await pod.run() == 0
    assert pod.api.settlements[1]["result"] == "[[[0,0],[1,10],[2,20]],7]"
    assert sorted(pod.words()) == sorted(["a", "0", "a", "1", "a", "2", "b", "0", "b", "1", "b", "2", "inner"])
    keys = {"~1/a", "~2/a", "~3/a", "~1/b", "~2/b", "~3/b", "outer", "outer>inner"}
    assert set(pod.api.values()) == keys


async def test_fatal_lost_and_exit(pod: Pod):
    for code, kind, kind_type in (
        ("raise FatalError('no')", "fatal", "FatalError"),
        ("os._exit(0)", "lost-result", "lost-result"),
        ("os.kill(os.getpid(), 11)", "crash", "crash"),
        ("raise SystemExit(3)", "user", "SystemExit"),
    ):
        pod.source(HEAD + f"\n@task\nasync def main(ctx):\n    {code}\n")
        assert await pod.run() == EXIT_FAILED
        failure = pod.api.settlements[-1]["failure"]
        assert (failure["kind"], failure["type"]) == (kind, kind_type)
        pod.api.next_attempt()


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "of an older api"])
async def test_a_broken_read_of_records_goes_on_where_it_broke(pod: Pod, plain: bool):
    pod.api.plain = plain
    pod.source(
        HEAD
        + dedent("""
        @task
        async def main(ctx):
            got = [await ctx.step(f"s{n}", lambda n=n: note("ran", n) or n) for n in range(30)]
            if ctx.run.attempt == 1:
                raise RuntimeError
            return sum(got)
    """)
    )
    await pod.run()
    pod.api.next_attempt()
    pod.api.break_records_after = 7
    assert await pod.run() == 0
    assert pod.api.settlements[1]["result"] == str(sum(range(30)))
    assert len(pod.words()) == 60
    assert pod.api.seen.count("/records") > 30


async def test_time_chance_and_ids_are_the_same_in_every_attempt(pod: Pod):
    pod.source(
        HEAD
        + dedent("""
        from datetime import datetime
        from uuid import UUID

        @task
        async def main(ctx: Context):
            seen = [await ctx.now(), await ctx.now(), await ctx.random(), await ctx.uuid()]
            assert isinstance(seen[0], datetime) and seen[0].tzinfo and isinstance(seen[3], UUID), seen
            note(*[repr(one) for one in seen])
            if ctx.run.attempt == 1:
                os._exit(9)
            return "done"
    """)
    )
    assert await pod.run() != 0
    pod.api.next_attempt()
    assert await pod.run() == 0
    first, second = pod.lines()
    assert first == second
    assert len(set(first.split("datetime."))) > 2


async def test_branches_of_a_map_resume_each_on_its_own(pod: Pod):
    pod.source(
        HEAD
        + dedent("""
        @step
        async def fetch(n):
            note("fetch", n)
            if n == 3:
                raise ValueError("three")
            return n * n

        @task
        async def main(ctx: Context):
            async def one(n):
                return await fetch(n)

            squares = await ctx.map(one, [1, 2, 4, 5], concurrency=2)
            ends = await ctx.all_settled(one(3), one(6))
            note("ends", [end.ok for end in ends], ends[1].unwrap(), type(ends[0].error).__name__)
            if ctx.run.attempt == 1:
                os._exit(9)
            return squares
    """)
    )
    assert await pod.run() != 0
    pod.api.next_attempt()
    assert await pod.run() == 0
    assert pod.api.settlements[-1]["result"] == "[1,4,16,25]"
    noted = pod.lines()
    assert sorted(line for line in noted if line.startswith("fetch") and line != "fetch 3") == [
        "fetch 1", "fetch 2", "fetch 4", "fetch 5", "fetch 6",
    ]  # fmt: skip
    assert noted.count("ends [False, True] 36 ValueError") == 2
