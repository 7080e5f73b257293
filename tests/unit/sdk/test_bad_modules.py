"""Tasks that misbehave as processes: at their import, in forks, or by blocking the loop. True runner, true sidecar."""

import asyncio
import re
import signal
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from milepost.runner.blocked import blocked_seconds, blocking_line
from milepost.runner.load import LoadError, load
from milepost.sdk.run import AttemptInfo, RunInfo
from milepost.wire.local import EXIT_CONFIG, EXIT_FAILED
from tests.unit.sdk.conftest import Pod, until

HEAD = "import asyncio, os, sys, threading, time\nfrom milepost import Context, SyncContext, step, task\n"
PLAIN = "\n@task\ndef main(ctx: SyncContext):\n    return ctx.step('a', lambda: 7)\n"


def module(pod: Pod, text: str) -> None:
    """Give the task as a module of its own, as an image has it."""
    (pod.home / "jobs.py").write_text(HEAD + dedent(text))
    pod.api.start["entrypoint"] = "jobs:main"


async def test_what_a_module_prints_is_in_the_log_once(pod: Pod):
    module(pod, 'print("at import")\nsys.stdout.write("unended")\n' + PLAIN)
    assert await pod.run() == 0
    assert pod.api.settlements[0]["result"] == "7"
    log = pod.log.read_text()
    assert (log.count("at import"), log.count("unended")) == (1, 1)


async def test_a_module_that_exits_at_import_is_a_config_failure(pod: Pod):
    module(pod, "sys.exit('not here')" + PLAIN)
    assert await pod.run() == EXIT_CONFIG
    failure = pod.api.settlements[0]["failure"]
    assert (failure["kind"], failure["retryable"]) == ("config", False), failure
    assert "module 'jobs' can't be imported: SystemExit: not here" in failure["message"]
    assert f'jobs.py", line {HEAD.count(chr(10)) + 1}' in failure["traceback"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("import asyncio; raise asyncio.CancelledError('odd')", "CancelledError: odd"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f(:", "SyntaxError"),
        ("def f():\n    f()\nf()", "RecursionError"),
        ("from milepost import task\n@task\ndef main():\n    yield 1", "TypeError: main is a generator"),
    ],
)
def test_what_a_module_raises_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, says: str):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "jobs", raising=False)
    (tmp_path / "jobs.py").write_text(line)
    run = RunInfo("r", "r", "n", "t", 1, 1, "first", 3, (), "")
    with pytest.raises(LoadError, match=f"module 'jobs' can't be imported: {re.escape(says)}"):
        load(AttemptInfo(run, None, "jobs:main", None, 1000, 1000, 1, 0))


async def test_a_module_that_ends_the_process_at_import_settles_nothing(pod: Pod):
    module(pod, "os._exit(3)" + PLAIN)
    assert await pod.run() == 3
    assert pod.api.settlements == []


async def test_threads_of_a_module_live_in_the_attempt(pod: Pod):
    text = """
        from queue import SimpleQueue
        asked, answers = SimpleQueue(), SimpleQueue()

        def exporter():
            while True:
                answers.put(asked.get() * 2)

        threading.Thread(target=exporter, name="exporter", daemon=True).start()

        @task
        async def main(ctx: Context):
            doubled = []
            for n in range(3):
                asked.put(n)
                doubled.append(await ctx.step("double", answers.get))
            return doubled
        """
    module(pod, text)
    assert await pod.run() == 0
    assert pod.api.settlements[0]["result"] == "[0,2,4]"
    assert "the import of the task started threads (exporter), which a fork would not have" in pod.log.read_text()


async def test_a_cancel_reaches_a_task_that_was_imported_anew(pod: Pod):
    text = """
        threading.Thread(target=threading.Event().wait, daemon=True).start()

        @task
        async def main(ctx: Context):
            await ctx.step("one", lambda: 1)
            await asyncio.sleep(60)
        """
    module(pod, text)
    assert await pod.cancelled() == EXIT_FAILED
    assert pod.api.settlements[0]["failure"]["kind"] == "cancelled"


async def test_the_lease_is_kept_while_a_module_is_imported(pod: Pod):
    text = """
        while not os.path.exists("go"):
            time.sleep(0.01)
        """
    module(pod, dedent(text) + PLAIN)
    await pod.start_sidecar()
    runner = await pod.start_runner()
    await pod.api.wait_until(lambda: len(pod.api.beats) >= 4)
    assert pod.api.settlements == []
    (pod.home / "go").touch()
    async with asyncio.timeout(20):
        assert await runner.wait() == 0


async def test_a_fork_of_the_task_settles_nothing(pod: Pod):
    text = """
        @task
        def main(ctx: SyncContext):
            ctx.step("a", lambda: 1)
            pid = os.fork()
            if pid == 0:
                try:
                    ctx.step("b", lambda: 2)
                except Exception as error:
                    with open("noted", "w") as f:
                        f.write(str(error))
                return "of the fork"
            os.waitpid(pid, 0)
            return "of the task"
        """
    module(pod, text)
    assert await pod.run() == 0
    assert [s["result"] for s in pod.api.settlements] == ['"of the task"']
    assert "ctx.step('b') can't be used in a process that the task forked" in pod.lines()[0]
    assert "let it end itself, with os._exit" in pod.log.read_text()


async def test_a_task_that_swallows_each_cancellation_is_killed_after_its_grace(pod: Pod):
    text = """
        @task
        async def main(ctx: Context):
            await ctx.step("one", lambda: 1)
            while True:
                try:
                    await asyncio.sleep(60)
                except BaseException as error:
                    await ctx.checkpoint("swallowed", type(error).__name__)
        """
    module(pod, text)
    assert await pod.cancelled() == EXIT_FAILED
    settled = pod.api.settlements[0]
    assert (settled["failure"]["kind"], settled["evidence"]["signal"]) == ("cancelled", signal.SIGKILL)
    assert pod.api.values("checkpoint") == {"swallowed": "CancelledError"}


async def test_a_blocked_loop_is_told_with_its_line(pod: Pod):
    text = """
        def busy():
            while not os.path.exists("go"):
                time.sleep(0.01)  # HERE

        @task
        async def main(ctx: Context):
            busy()
            return "done"
        """
    module(pod, text)
    pod.env["MILEPOST_BLOCKED_SECONDS"] = "0.05"
    await pod.start_sidecar()
    runner = await pod.start_runner()
    line = next(n for n, one in enumerate((HEAD + dedent(text)).splitlines(), 1) if "# HERE" in one)
    async with asyncio.timeout(20):
        await until(lambda: f"jobs.py:{line} in busy" in pod.log.read_text())
    (pod.home / "go").touch()
    async with asyncio.timeout(20):
        assert await runner.wait() == 0
    assert "the event loop has been blocked for" in pod.log.read_text()


async def test_a_step_that_was_left_at_work_is_told(pod: Pod):
    text = """
        @task
        async def main(ctx: Context):
            async def lasting():
                begun.set()
                await asyncio.sleep(60)

            begun = asyncio.Event()
            left = asyncio.create_task(ctx.step("left", lasting))
            await begun.wait()
            return "done"
        """
    module(pod, text)
    assert await pod.run() == 0
    assert pod.api.values() == {}
    assert "the task ended while step 'left' was at work: it is cut off and not recorded" in pod.log.read_text()
    assert "in main)" in pod.log.read_text()


OS = blocking_line.__globals__["PYTHON"][0]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([], None),
        ([f"{OS}selectors.py", f"{OS}asyncio/base_events.py", "/app/jobs.py"], None),
        (["/app/jobs.py", f"{OS}asyncio/events.py"], "/app/jobs.py:1 in f1"),
        ([f"{OS}socket.py", f"{OS}site-packages/requests/api.py", "/app/jobs.py"],
         f"/app/jobs.py:3 in f3 (in f1 of {OS}socket.py)"),
        ([f"{OS}json/decoder.py", f"{OS}site-packages/shop/jobs.py"],
         f"{OS}site-packages/shop/jobs.py:2 in f2 (in f1 of {OS}json/decoder.py)"),
        ([f"{OS}json/decoder.py", f"{OS}asyncio/events.py"], None),
    ],
)  # fmt: skip
def test_the_users_line_of_a_stack(files: list[str], told: str | None):
    assert blocking_line([(file, n, f"f{n}") for n, file in enumerate(files, 1)]) == told


@pytest.mark.parametrize(
    ("text", "seconds"), [("", 1.0), ("0", 0.0), ("2.5", 2.5), ("soon", 1.0), ("-1", 1.0), ("nan", 1.0), ("inf", 1.0)]
)
def test_seconds_of_the_environment(text: str, seconds: float, capsys: pytest.CaptureFixture[str]):
    assert blocked_seconds({"MILEPOST_BLOCKED_SECONDS": text}) == seconds
    assert ("is no number of seconds" in capsys.readouterr().err) == (text in {"soon", "-1", "nan", "inf"})
