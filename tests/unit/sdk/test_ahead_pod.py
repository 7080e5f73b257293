"""A pod that was made before there is a run for it: the true runner and the true sidecar."""

import json
from pathlib import Path
from textwrap import dedent

import pytest

from milepost.wire.local import EXIT_CONFIG
from tests.unit.sdk.conftest import curl
from tests.unit.sdk.warm import WarmApi, warm_pod

ECHO = dedent("""
    import os
    from pathlib import Path
    from milepost import task

    Path("imported").touch()
    environment = dict(os.environ)

    @task
    def main(ctx, say: str = ""):
        return [say, os.getppid(), "MILEPOST_AHEAD" in environment or "MILEPOST_AHEAD" in os.environ]
""")


async def test_it_imports_the_task_and_waits_for_its_first_run(tmp_path: Path):
    async with warm_pod(tmp_path, ECHO, ahead=True) as warm:
        await warm.api.is_idle()
        assert (tmp_path / "imported").exists(), "it is to be ready before it says so"
        assert "/code" in warm.api.seen
        assert (warm.api.done, warm.api.beats) == ([], [])
        for number, say in ((1, "one"), (2, "two")):
            await warm.api.offer(input=json.dumps({"say": say}))
            await warm.api.settled_runs(number)
            await warm.api.is_idle()
        await warm.api.close()
        assert await warm.ended() == 0
        assert warm.api.results() == [["one", warm.runner.pid, False], ["two", warm.runner.pid, False]]
        assert {beat["fence"]["run_id"] for beat in warm.api.beats} == {"run-2", "run-3"}


async def test_one_that_is_never_needed_ends_well(tmp_path: Path):
    async with warm_pod(tmp_path, ECHO, ahead=True) as warm:
        await warm.api.is_idle()
        await warm.api.close()
        assert await warm.ended() == 0


async def test_a_task_that_cant_be_loaded_ends_it_and_says_why(tmp_path: Path):
    async with warm_pod(tmp_path, "import nothing_of_that_name", ahead=True) as warm:
        assert await warm.ended() == EXIT_CONFIG
        assert "nothing_of_that_name" in warm.log().splitlines()[-1]
        assert (warm.api.done, warm.api.polls) == ([], [])


async def test_a_sidecar_restarted_before_the_first_run_asks_again(tmp_path: Path):
    async with warm_pod(tmp_path, ECHO, ahead=True) as warm:
        await warm.api.is_idle()
        polls = len(warm.api.polls)
        await warm.restart_sidecar()
        await warm.api.wait_until(lambda: len(warm.api.polls) > polls)
        await warm.api.offer(input='{"say": "one"}')
        await warm.api.settled_runs(1)
        assert warm.api.results()[0][0] == "one"


@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
async def test_a_runner_that_knows_of_no_such_pod_gets_its_first_run_all_the_same(tmp_path: Path, bad: bool):
    """An image with an older SDK: it asks for its attempt at once, and imports the task once it has one."""
    async with warm_pod(tmp_path, "import nothing_of_that_name" if bad else ECHO, as_before) as warm:
        await warm.api.is_idle()
        assert not (tmp_path / "imported").exists()
        await warm.api.offer(input='{"say": "one"}')
        await warm.api.settled_runs(1)
        assert warm.api.done[0]["outcome"] == ("failed" if bad else "succeeded")


def as_before(api: WarmApi) -> None:
    api.ahead = True  # and nobody tells the runner


async def test_code_is_for_pods_without_an_attempt(tmp_path: Path):
    async with warm_pod(tmp_path, ECHO) as warm:
        reply = await curl(await warm.pod.connected(), "GET", "/v1/code")
        assert (reply.status, reply.json()["code"]) == (409, "has-attempt")


async def test_what_the_import_left_is_told_once(tmp_path: Path):
    source = dedent("""
        import threading
        from milepost import task

        threading.Thread(target=threading.Event().wait, name="exporter", daemon=True).start()

        @task
        def main(ctx):
            return 1
    """)
    async with warm_pod(tmp_path, source) as warm:
        await warm.api.wait_until(lambda: bool(warm.api.left))
        await warm.api.is_idle()
        await warm.api.offer()
        await warm.api.settled_runs(2)
        assert warm.api.left == [["thread exporter"]]


async def test_what_leaves_nothing_tells_nothing(tmp_path: Path):
    async with warm_pod(tmp_path, ECHO) as warm:
        await warm.api.is_idle()
        assert "/left" not in warm.api.seen
