"""One pod, run after run: the true runner and the true sidecar."""

import asyncio
import json
import signal
from pathlib import Path
from textwrap import dedent

import pytest

from milepost.wire.local import EXIT_CONFIG, EXIT_FAILED
from tests.unit.sdk.conftest import curl
from tests.unit.sdk.warm import WarmApi, can_isolate, warm_pod

ECHO = dedent("""
    import os
    from milepost import Context, task

    seen = []

    @task
    async def main(ctx: Context, say: str = ""):
        seen.append(say)
        await ctx.step("said", lambda: say)
        if say == "fail":
            raise ValueError(say)
        if say == "crash":
            os._exit(9)
        return {"run": ctx.run.id, "seen": seen, "parent": os.getppid()}
""")


async def test_a_pod_serves_one_run_after_another(tmp_path: Path):
    async with warm_pod(tmp_path, ECHO) as warm:
        await warm.api.is_idle()
        for say in ("two", "fail", "four"):
            await warm.api.offer(input=json.dumps({"say": say}))
            await warm.api.is_idle()
            assert warm.api.values() == {"said": say}
        await warm.api.close()
        assert await warm.ended() == 0
        first, second, failed, fourth = warm.api.results()
        assert (first["run"], second["run"], fourth["run"]) == ("run-1", "run-2", "run-4")
        assert [first["seen"], second["seen"], fourth["seen"]] == [[""], ["two"], ["four"]]
        assert first["parent"] == fourth["parent"] == warm.runner.pid, "the module was imported once"
        assert failed == "failed"
        assert {beat["fence"]["run_id"] for beat in warm.api.beats} >= {"run-1"}
        assert all(poll["retire"] is None and poll["parent_bytes"] > 0 for poll in warm.api.polls)
        assert warm.api.reusable == [True]


def vacant(api: WarmApi) -> None:
    """Another pod took its attempt before it was there."""
    api.ahead, api.run = True, 0


async def test_a_pod_that_came_too_late_for_its_attempt_waits_for_another(tmp_path: Path):
    async with warm_pod(tmp_path, ECHO, vacant) as warm:
        await warm.api.is_idle()
        await warm.restart_sidecar()
        await warm.api.wait_until(lambda: len(warm.api.polls) > 1)
        for say in ("one", "two"):
            await warm.api.offer(input=json.dumps({"say": say}))
            await warm.api.is_idle()
        await warm.api.close()
        assert await warm.ended() == 0
        assert [(one["run"], one["seen"]) for one in warm.api.results()] == [("run-1", ["one"]), ("run-2", ["two"])]


async def test_a_pod_that_came_too_late_ends_in_order_when_nobody_needs_it(tmp_path: Path):
    async with warm_pod(tmp_path, ECHO, vacant) as warm:
        await warm.api.is_idle()
        await warm.api.close()
        assert await warm.ended() == 0
        assert warm.api.done == []


async def test_a_first_attempt_that_can_not_be_loaded_fails_in_a_pod_that_waited(tmp_path: Path):
    async with warm_pod(tmp_path, "raise ValueError('no')", vacant) as warm:
        await warm.api.is_idle()
        await warm.api.offer()
        await warm.api.settled_runs(1)
        assert warm.api.done[0]["failure"]["kind"] == "config"
        assert await warm.ended() == EXIT_CONFIG


async def test_polls_go_on_until_there_is_work(tmp_path: Path):
    def impatient(api: WarmApi) -> None:
        api.poll_seconds = 0.02

    async with warm_pod(tmp_path, ECHO, impatient) as warm:
        await warm.api.wait_until(lambda: len(warm.api.polls) > 2)
        await warm.api.offer()
        await warm.api.settled_runs(2)
        await warm.api.close()
        assert await warm.ended() == 0


async def test_an_api_without_the_route_ends_the_pod(tmp_path: Path):
    def old(api: WarmApi) -> None:
        api.knows_next = False

    async with warm_pod(tmp_path, ECHO, old) as warm:
        assert await warm.ended() == 0
        assert len(warm.api.done) == 1


async def test_a_crash_retires_the_pod(tmp_path: Path):
    async with warm_pod(tmp_path, ECHO) as warm:
        await warm.api.is_idle()
        await warm.api.offer(input='{"say": "crash"}')
        assert await warm.ended() == EXIT_FAILED
        assert warm.api.done[1]["failure"]["kind"] == "crash"
        assert warm.api.polls[-1]["retire"] == "crash"


async def test_a_parent_that_grew_retires_the_pod(tmp_path: Path):
    source = dedent("""
        import os, threading, time
        from milepost import task

        def grow():
            while not os.path.exists("grow"):
                time.sleep(0.01)
            globals()["grown"] = b"x" * 100_000_000
            open("grown.now", "w").close()

        threading.Thread(target=grow, daemon=True).start()

        @task
        def main(ctx):
            if os.path.exists("wanted"):
                open("grow", "w").close()
                while not os.path.exists("grown.now"):
                    time.sleep(0.01)
    """)
    async with warm_pod(tmp_path, source) as warm:
        await warm.api.is_idle()
        (tmp_path / "wanted").touch()
        await warm.api.offer()
        assert await warm.ended() == 0
        assert [poll["retire"] for poll in warm.api.polls] == [None, "grew"]
        assert warm.api.polls[1]["parent_bytes"] > 100_000_000


async def test_an_offer_withdrawn_is_no_end(tmp_path: Path):
    async with warm_pod(tmp_path, ECHO) as warm:
        await warm.api.is_idle()
        warm.api.withdrawn = 1
        await warm.api.offer()
        await warm.api.is_idle()
        await warm.api.offer()
        await warm.api.settled_runs(2)
        assert [one["fence"]["run_id"] for one in warm.api.done] == ["run-1", "run-3"]


async def test_a_sidecar_restarted_while_idle_asks_again(tmp_path: Path):
    async with warm_pod(tmp_path, ECHO) as warm:
        await warm.api.is_idle()
        polls = len(warm.api.polls)
        await warm.restart_sidecar()
        await warm.api.wait_until(lambda: len(warm.api.polls) > polls)
        await warm.api.offer()
        await warm.api.settled_runs(2)
        await warm.api.close()
        assert await warm.ended() == 0


async def test_a_sidecar_killed_at_the_hand_over_hands_over_what_it_had_started(tmp_path: Path):
    async with warm_pod(tmp_path, ECHO) as warm:
        await warm.api.is_idle()
        warm.api.hold_start = True
        await warm.api.offer(input='{"say": "two"}')
        await warm.api.wait_until(lambda: warm.api.row == "bound")  # started; the sidecar has no answer yet
        polls = len(warm.api.polls)
        warm.pod.sidecar.kill()
        await warm.pod.sidecar.wait()
        warm.api.hold_start = False
        await warm.pod.start_sidecar()
        await warm.api.settled_runs(2)
        assert warm.api.results()[1]["seen"] == ["two"]
        await warm.api.wait_until(lambda: len(warm.api.polls) > polls)
        await warm.api.close()
        assert await warm.ended() == 0


async def test_what_is_written_late_meets_the_end_of_its_own_attempt(tmp_path: Path):
    gated = ECHO.replace(
        "        seen.append", "        while not os.path.exists(ctx.run.id): time.sleep(0.01)\n        seen.append"
    )
    gated = gated.replace("import os", "import os, time")
    async with warm_pod(tmp_path, gated) as warm:
        late, new = await warm.pod.connected(), await warm.pod.connected()
        assert (await curl(late, "GET", "/v1/attempt")).json()["run_id"] == "run-1"
        (tmp_path / "run-1").touch()
        await warm.api.is_idle()
        assert (await curl(late, "GET", "/v1/healthz")).json() == {"phase": "settled"}
        await warm.api.offer()
        await warm.api.wait_until(lambda: any(beat["fence"]["run_id"] == "run-2" for beat in warm.api.beats))
        assert (await curl(new, "PUT", "/v1/steps/new", b"1")).status == 200
        for path in ("/v1/steps/late", "/v1/checkpoints/late", "/v1/stream", "/v1/progress", "/v1/result"):
            reply = await curl(late, "PUT", path, b"{}")
            assert (reply.status, reply.json()["code"]) == (409, "settled"), path
        reply = await curl(new, "POST", "/v1/next", b'{"run_id": "run-2", "attempt": 1}')
        assert (reply.status, reply.json()["code"]) == (409, "not-settled")
        (tmp_path / "run-2").touch()
        await warm.api.settled_runs(2)
        assert warm.api.values() == {"new": 1, "said": ""}


async def test_sigterm_ends_an_idle_pod_at_once(tmp_path: Path):
    async with warm_pod(tmp_path, ECHO) as warm:
        await warm.api.is_idle()
        warm.runner.send_signal(signal.SIGTERM)
        assert await warm.ended() == 143
        warm.pod.sidecar.send_signal(signal.SIGTERM)
        assert await warm.pod.sidecar.wait() == 0


async def test_an_outage_of_the_api_is_waited_out(tmp_path: Path):
    def restless(api: WarmApi) -> None:
        api.poll_seconds = 0.1

    async with warm_pod(tmp_path, ECHO, restless) as warm:
        await warm.api.is_idle()
        warm.api.down = True
        seen = len(warm.api.seen)
        await warm.api.wait_until(lambda: len(warm.api.seen) > seen + 2)
        warm.api.valid.clear()  # and its sessions with it
        warm.api.down = False
        await warm.api.offer()
        await warm.api.settled_runs(2)
        assert warm.api.sessions == 2


async def test_a_pod_that_is_being_ended_takes_no_other_run(tmp_path: Path):
    source = dedent("""
        import signal, time
        from milepost import task

        @task
        def main(ctx):
            told = []
            signal.signal(signal.SIGTERM, lambda *_: told.append(1))
            ctx.step("begun", lambda: 1)
            while not told:
                time.sleep(0.01)
            return "done"
    """)
    async with warm_pod(tmp_path, source) as warm:
        await warm.api.wait_until(lambda: bool(warm.api.records))
        warm.runner.send_signal(signal.SIGTERM)
        assert await warm.ended() == 0
        assert (warm.api.results(), warm.api.polls) == (["done"], [])


async def test_what_the_import_left_is_shared_by_no_two_runs(tmp_path: Path):
    source = dedent("""
        import os, socket, subprocess, tempfile
        from milepost import task

        imported_by = os.getpid()
        pair = socket.socketpair()
        made = tempfile.mkdtemp(dir=os.environ["MILEPOST_SCRATCH"])
        helper = subprocess.Popen(["sleep", "600"])

        @task
        def main(ctx):
            assert os.path.isdir(made)
            os.kill(helper.pid, 0)
            return [os.getpid() == imported_by, os.getppid()]
    """)
    async with warm_pod(tmp_path, source) as warm:
        await warm.api.is_idle()
        await warm.api.offer()
        await warm.api.settled_runs(2)
        await warm.api.close()
        assert await warm.ended() == 0
        assert warm.api.results() == [[False, warm.runner.pid], [True, warm.runner.pid]]
        assert warm.log().count("the import of the task left ") == 1
        assert all(left in warm.log() for left in ("descriptor ", "process ", "scratch/tmp"))


@pytest.mark.parametrize("isolated", [False, True], ids=["process", "pid 1"])
async def test_nothing_leaks_from_one_run_to_the_next(tmp_path: Path, isolated: bool):
    if isolated and not await asyncio.to_thread(can_isolate):
        pytest.skip("namespaces are not ours to make here")
    source = await asyncio.to_thread(Path("tests/leaks.py").read_text)
    asked = {"leak_all": True, "mark": f"leaked-{tmp_path}"}

    def first_leaks(api: WarmApi) -> None:
        api.start["input"] = json.dumps(asked)

    async with warm_pod(tmp_path, source, first_leaks, isolated=isolated) as warm:
        await warm.api.is_idle()
        await warm.api.offer(input=json.dumps(asked | {"leak_all": False}))
        await warm.api.settled_runs(2)
        await warm.api.close()
        assert await warm.ended() == 0
        first, second = warm.api.results()
        assert first.pop("trace") != second.pop("trace")
        assert {way: [first[way], found] for way, found in second.items() if found != first[way]} == {}
        assert len(first["ipc"].splitlines()) == 3 * isolated, "headlines only"
