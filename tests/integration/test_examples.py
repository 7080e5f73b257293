"""The examples' own code, killed in the middle, on the whole true path; their unit tests kill it at every record."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from milepost_operator.adapters.postgres.store import PostgresStore
from tests.examples import ANSWER, EXAMPLES, QUESTION, ZONES, services
from tests.integration.engine import NS, apply_task, trigger
from tests.integration.test_pod_processes import pod_of, port  # noqa: F401  # a fixture
from tests.unit.sdk.conftest import Pod, end


async def killed(pod: Pod, ready: Callable[[], Awaitable[bool]]) -> None:
    """Run the pod, and kill the task's own process when it is time."""
    sidecar, runner = await pod.start_sidecar(), await pod.start_runner()
    while not await ready():
        assert runner.returncode is None, pod.log.read_text()
        await asyncio.sleep(0.02)
    children = Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()  # noqa: ASYNC240
    os.kill(int(children[0]), signal.SIGKILL)
    assert await runner.wait() != 0
    await end(sidecar)


async def recorded(store: PostgresStore, run_id: str) -> int:
    rows = await store._db.fetch("select count(*) as n from records where run_id = $1::text::uuid", run_id)
    return rows[0]["n"]


async def result_of(store: PostgresStore, run_id: str) -> tuple[dict, int]:
    """Its result, and after how many records its last attempt resumed."""
    run = await store.get_run(NS, run_id)
    assert run.state == "succeeded", run
    rows = await store._db.fetch(
        "select resumed_after from attempts where run_id = $1::text::uuid order by attempt desc limit 1", run_id
    )
    return json.loads(run.result), rows[0]["resumed_after"]


async def disturbed(  # noqa: PLR0917
    store: PostgresStore,
    port: int,  # noqa: F811
    home: Path,
    example: str,
    given: object,
    least: int,
    **environment: str,
) -> dict:
    """The result of a run whose first attempt is killed when there are so many records."""
    code = home / "code"
    code.mkdir()
    shutil.copy(EXAMPLES / example / "task.py", code)
    await apply_task(store, example, shape={"entrypoint": "task:main"})
    run_id = str((await trigger(store, example, input=json.dumps(given))).run_id)
    environment |= {"PYTHONPATH": str(code)}

    async def ready() -> bool:
        return await recorded(store, run_id) >= least

    async with pod_of(store, port, home / "one", **environment) as pod:
        await killed(pod, ready)
    async with pod_of(store, port, home / "two", **environment) as pod:
        assert await pod.run() == 0, pod.log.read_text()
    result, resumed_after = await result_of(store, run_id)
    assert resumed_after >= least
    return result


async def test_support_agent(store: PostgresStore, port: int, tmp_path: Path):  # noqa: F811
    with services(thinking_seconds=0.1) as running:
        given = {"question": QUESTION}
        result = await disturbed(store, port, tmp_path, "support-agent", given, 4, **running.environment)
        assert result["text"] == ANSWER
        assert [refund["order_id"] for refund in running.paid()] == ["A-1002", "A-1004"]
        # only the turn that was under way when the process died may have been answered twice
        assert len(running.model.answered) - len(set(running.model.answered)) <= 1


async def test_timezone_etl(store: PostgresStore, port: int, tmp_path: Path):  # noqa: F811
    given = {"source": str(ZONES), "warehouse": str(tmp_path / "zones.db"), "batch": 40}
    result = await disturbed(store, port, tmp_path, "timezone-etl", given, 3)
    text = (ZONES / "zone1970.tab").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert (result["zones"], result["rejected"]) == (len(lines), 0)
    assert result["changes"] > 10 * len(lines)
